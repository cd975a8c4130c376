// Package trace says what becomes of a packet: by what the kernel holds, the plan in force and the verdicts, compared with the
// kernel's own answer. The daemon and commands without one use it.
package trace
