"""Warp kernels of the engine on MuJoCo Warp: frames of contacts, and the check for failures."""

from __future__ import annotations

import mujoco_warp as mjw
import warp as wp

UNSTABLE, CONTACTS_OVERFLOW, CONSTRAINTS_OVERFLOW = 1, 2, 3
"""Codes of ``DeviceEngine.failure``."""

CONTACT_BITS = int(
    mjw.OverflowType.BROADPHASE
    | mjw.OverflowType.NARROWPHASE
    | mjw.OverflowType.CCD
    | mjw.OverflowType.HFIELD
    | mjw.OverflowType.EPA_HORIZON
)
CONSTRAINT_BITS = int(mjw.OverflowType.NEFC | mjw.OverflowType.NJMAX_NNZ)
# Bits that more memory prevents. HFIELD and EPA_HORIZON are limits of the library.
MEMORY_BITS = CONSTRAINT_BITS | int(
    mjw.OverflowType.BROADPHASE | mjw.OverflowType.NARROWPHASE | mjw.OverflowType.CCD
)
_MAX_VALUE = 1e10  # mjMAXVAL: MuJoCo calls a state beyond it unstable


@wp.kernel(enable_backward=False)
def align_contacts(
    geom_type: wp.array[int],
    geom_xmat: wp.array2d[wp.mat33],
    contact_geom: wp.array[wp.vec2i],
    contact_worldid: wp.array[int],
    num_contacts: wp.array[int],
    contact_frame: wp.array[wp.mat33],
) -> None:
    """Align contacts of planes and capsules with the capsule."""
    contact = wp.tid()
    if contact >= num_contacts[0]:
        return
    sim = contact_worldid[contact]
    geoms = contact_geom[contact]
    is_plane = geom_type[geoms[0]] == wp.static(int(mjw.GeomType.PLANE))
    is_capsule = geom_type[geoms[1]] == wp.static(int(mjw.GeomType.CAPSULE))
    if not (is_plane and is_capsule):
        return
    # first tangent: the capsule's axis, projected onto the plane
    rotation = geom_xmat[sim, geoms[1]]
    axis = wp.vec3(rotation[0, 2], rotation[1, 2], rotation[2, 2])
    normal = contact_frame[contact][0]
    tangent = axis - wp.dot(axis, normal) * normal
    length = wp.length(tangent)
    if length > 0.0:
        tangent = tangent / length
        frame = wp.matrix_from_rows(normal, tangent, wp.cross(normal, tangent))
        contact_frame[contact] = frame


@wp.kernel(enable_backward=False)
def note_failures(
    nominal_qpos: wp.array2d[float],
    ctrl: wp.array2d[float],
    overflow: wp.array[int],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    act: wp.array2d[float],
    qacc_warmstart: wp.array2d[float],
    failure: wp.array[wp.int8],
    memory_overflow: wp.array[int],
) -> None:
    """Set ``failure``; move unstable simulations to the model's pose, as MuJoCo in C does."""
    sim = wp.tid()
    # NaN compares false; the simulator would clip a control of NaN
    is_stable = wp.bool(True)
    for i in range(ctrl.shape[1]):
        is_stable = is_stable and wp.abs(ctrl[sim, i]) < wp.static(_MAX_VALUE)
    for i in range(qpos.shape[1]):
        is_stable = is_stable and wp.abs(qpos[sim, i]) < wp.static(_MAX_VALUE)
    for i in range(qvel.shape[1]):
        is_stable = is_stable and wp.abs(qvel[sim, i]) < wp.static(_MAX_VALUE)
    # the first failure since the last reset
    bits = overflow[sim]
    if failure[sim] == wp.int8(0):
        if not is_stable:
            failure[sim] = wp.int8(wp.static(UNSTABLE))
        elif bits & wp.static(CONTACT_BITS):
            failure[sim] = wp.int8(wp.static(CONTACTS_OVERFLOW))
        elif bits & wp.static(CONSTRAINT_BITS):
            failure[sim] = wp.int8(wp.static(CONSTRAINTS_OVERFLOW))
    if bits & wp.static(MEMORY_BITS):
        wp.atomic_or(memory_overflow, 0, bits & wp.static(MEMORY_BITS))
    # without NaN, the solver does not iterate in vain
    if not is_stable:
        for i in range(qpos.shape[1]):
            qpos[sim, i] = nominal_qpos[0, i]
        for i in range(qvel.shape[1]):
            qvel[sim, i] = 0.0
            qacc_warmstart[sim, i] = 0.0
        for i in range(act.shape[1]):
            act[sim, i] = 0.0
