package store

// Names of the documents that the daemon and commands without one read.
const (
	IDs      = "ids"      // uplink name to id
	Recorded = "recorded" // what the kernel held before us
)
