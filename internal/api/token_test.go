package api

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestATokenIsForTheOwnerAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, test := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{"0123456789abcdef\n", 0o600, ""}, {"0123456789abcdef", 0o400, ""},
		{"0123456789abcdef", 0o640, "chmod 600"}, {"0123456789abcdef", 0o604, "chmod 600"},
		{"  0123456789abcde\n", 0o600, "15 characters"}, {"", 0o600, "0 characters"},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, test.mode); err != nil {
			t.Fatal(err)
		}
		token, err := ReadToken(file)
		if got := err == nil; got != (test.want == "") || got != (token == "0123456789abcdef") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q, mode %#o: %q, %v", test.text, test.mode, token, err)
		}
	}
	fifo := file + ".fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fifo, file + ".missing", t.TempDir()} {
		if token, err := ReadToken(name); err == nil || token != "" {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
	if token, err := ReadToken(""); err != nil || token != "" {
		t.Errorf("without a file: %q, %v", token, err)
	}
}
