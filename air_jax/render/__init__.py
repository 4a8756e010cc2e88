"""3-D renderers behind one description of a scene."""
