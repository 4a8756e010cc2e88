"""Data: digits, composed scenes, users' own images, and the datasets made of them."""
