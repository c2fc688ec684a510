"""What needs matplotlib: the figures' common command line and files, panels, and the style."""
