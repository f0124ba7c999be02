"""Machines made by gVisor (`runsc`): a kernel of their own in user space, no KVM needed."""
