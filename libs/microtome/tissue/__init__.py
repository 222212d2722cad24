"""Where the tissue is on a slide.

Promises: a mask at about 8 µm per pixel that depends on the slide alone, and a yes or no for any rectangle of
level 0 that does not depend on how the slide is tiled.
Refuses: to tell good tissue from bad; only glass, ink and dirt are left out.
"""
