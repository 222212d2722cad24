"""The five processes of Microtome. None imports another; all of them import `microtome`."""
