"""The systems that are measured. This folder is run as a program, by the Python of each system.

So nothing in it imports plait but ``plait_system`` and ``profile_system``, and of their siblings
they import ``measured`` only.
"""
