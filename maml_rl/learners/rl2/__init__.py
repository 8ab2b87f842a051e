"""RL² (Duan et al. 2016): a recurrent policy whose memory adapts it to a task."""
