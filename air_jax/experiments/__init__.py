"""The paper's experiments and this project's own, one command each."""
