"""Importing this turns the garbage collector off, for a process that only imports: see `medvit.guard.preload`."""

import gc

gc.disable()
