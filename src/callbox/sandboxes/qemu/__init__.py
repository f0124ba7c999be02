"""The driver that gives each sandbox a small virtual machine: QEMU's `microvm`, on KVM or in software (TCG)."""
