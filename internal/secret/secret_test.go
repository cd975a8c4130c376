package secret

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestASecretIsInARegularFileOfItsOwner(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file("mine", " tk_123\n", 0o600):                  "",
		file("groups", "tk_123", 0o640):                   "chmod 600",
		file("worlds", "tk_123", 0o604):                   "chmod 600",
		file("long", strings.Repeat("x", limit+1), 0o600): "too long",
		fifo:                         "not a regular file",
		dir:                          "not a regular file",
		filepath.Join(dir, "absent"): "no such file",
	} {
		text, err := Read("secret_file", path)
		switch {
		case want == "":
			if err != nil || text != "tk_123" {
				t.Errorf("%q, %v", text, err)
			}
		case err == nil || !strings.Contains(err.Error(), want) || text != "":
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
}
