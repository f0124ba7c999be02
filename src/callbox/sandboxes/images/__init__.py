"""What sandboxes are made of: root file systems, their disks, and the guest's kernel."""
