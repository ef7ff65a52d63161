"""Importing this turns the garbage collector off and leaves Ctrl-C to the parent, for the process that imports for all
workers: see `medvit.guard.preload`."""

import gc
import signal

gc.disable()
signal.signal(signal.SIGINT, signal.SIG_IGN)
