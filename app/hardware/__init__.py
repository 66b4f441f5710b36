"""The machine: GPUs, CPU, memory and disks, merged from several sources, never guessed from a name."""
