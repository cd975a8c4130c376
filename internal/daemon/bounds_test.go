package daemon_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The package only starts, stops, reloads and joins. What does not fit belongs to an engine, or to a type of its own elsewhere.
const (
	maxLines   = 1600 // without tests
	maxMethods = 25   // of Daemon
)

func TestTheDaemonOnlyJoins(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	var methods []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(text, []byte("\n"))
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil && receiver(f) == "Daemon" {
				methods = append(methods, f.Name.Name)
			}
		}
	}
	if lines == 0 || lines > maxLines {
		t.Errorf("internal/daemon has %d lines, at most %d are allowed", lines, maxLines)
	}
	if len(methods) == 0 || len(methods) > maxMethods {
		t.Errorf("Daemon has %d methods, at most %d are allowed: %s", len(methods), maxMethods, strings.Join(methods, ", "))
	}
}

// receiver names the type that a method is of.
func receiver(f *ast.FuncDecl) string {
	of := f.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	name, _ := of.(*ast.Ident)
	if name == nil {
		return ""
	}
	return name.Name
}
