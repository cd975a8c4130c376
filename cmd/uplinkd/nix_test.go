package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// putForNix writes words as Nix's archives have them (NAR: E. Dolstra, The Purely Functional Software Deployment Model, section 5.2.1):
// each with its length in front, padded to 8 bytes.
func putForNix(w io.Writer, words ...string) error {
	for _, word := range words {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(word)))
		b = append(b, word...)
		if _, err := w.Write(append(b, make([]byte, -len(word)&7)...)); err != nil {
			return err
		}
	}
	return nil
}

// archiveForNix writes what an archive has of a file, or of a directory of files.
func archiveForNix(w io.Writer, path string) error {
	put := func(words ...string) error { return putForNix(w, words...) }
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if info.Mode()&0o100 != 0 {
			return put("(", "type", "regular", "executable", "", "contents", string(text), ")")
		}
		return put("(", "type", "regular", "contents", string(text), ")")
	}
	if err := put("(", "type", "directory"); err != nil {
		return err
	}
	entries, err := os.ReadDir(path) // in the order that the form wants
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := put("entry", "(", "name", e.Name(), "node"); err != nil {
			return err
		}
		if err := archiveForNix(w, filepath.Join(path, e.Name())); err != nil {
			return err
		}
		if err := put(")"); err != nil {
			return err
		}
	}
	return put(")")
}

// TestThePackageForNixOSKnowsWhatItIsBuiltOf: with another hash, Nix refuses to build it.
func TestThePackageForNixOSKnowsWhatItIsBuiltOf(t *testing.T) {
	vendor := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.Command("go", "mod", "vendor", "-o", vendor)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := sha256.New()
	if err := putForNix(h, "nix-archive-1"); err != nil {
		t.Fatal(err)
	}
	if err := archiveForNix(h, vendor); err != nil {
		t.Fatal(err)
	}
	want := `vendorHash = "sha256-` + base64.StdEncoding.EncodeToString(h.Sum(nil)) + `";`
	text, err := os.ReadFile("../../packaging/nixos/package.nix")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), want) {
		t.Errorf("packaging/nixos/package.nix should have\n%s", want)
	}
}
