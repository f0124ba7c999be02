"""What both drivers need of a Linux host: control groups, disks, mounts, detached processes, and their removal."""
