"""What a user holds: a policy that predicts, adapts, is saved and handed to other libraries."""
