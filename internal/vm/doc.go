// Package vm runs a program on a stock Debian kernel in a small virtual machine, for what the machine's own kernel has
// no module for. vmexec is the command around it, made for go test:
//
//	go test -tags vm -exec bin/vmexec ./internal/tunnel
//
//	Kernel: apt-get download, dpkg-deb, depmod ──> cache directory
//	initramfs: vmexec itself as /init, a few modules, the job (what to run where)
//	Run: qemu, no acceleration needed
//	  └── guest: the host's files, read-only by 9p, below an overlay in memory
//	        └── the program, in the same directory ── output by a serial port ──> stdout
//	                                               └─ exit code by isa-debug-exit
//
// The guest has no network device: its namespaces are its own, and nothing that a test does there can reach anybody.
// What it writes is gone with it.
package vm
