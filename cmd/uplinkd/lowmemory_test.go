package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// codeResident is how much of this program's code is mapped now, in KiB: Rss of proc_pid_smaps(5).
func codeResident(t *testing.T) (kib int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.Contains(line, "-") && !strings.Contains(line, ": "):
			inside = strings.Contains(line, "r-xp") && strings.HasSuffix(strings.TrimSpace(line), program)
		case inside && strings.HasPrefix(line, "Rss:"):
			n := 0
			if _, err := fmt.Sscanf(line, "Rss: %d kB", &n); err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	return kib
}

func TestCodeThatIsNotRunLeavesMemory(t *testing.T) {
	before := codeResident(t)
	if err := dropProgramPages(); err != nil {
		t.Fatal(err)
	}
	if after := codeResident(t); after == 0 || after >= before {
		t.Errorf("%d KiB of code are mapped, %d were", after, before)
	}
}
