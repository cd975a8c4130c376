package status

// Examination is what the doctor finds on this machine as it is now.
type Examination struct {
	Findings List[Finding] `json:"findings"`
}

// Finding is a trap for setups with several uplinks that was found.
type Finding struct {
	Check    string `json:"check"`    // its name, for scripts
	Severity string `json:"severity"` // "error", "warning" or "notice"
	Cause    string `json:"cause"`
	Fix      string `json:"fix"`
}
