"""Audits of membership: RMIA and U-LiRA with references of their own."""
