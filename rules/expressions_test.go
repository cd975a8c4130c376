package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever adds an nftables expression is told where else it has to be known.
func TestEveryExpressionIsKnownToTheKernelAndToExplain(t *testing.T) {
	declared := make(map[string]bool)
	inspect(t, "nft", func(n ast.Node) {
		if f, ok := n.(*ast.FuncDecl); ok && f.Name.Name == "AppendTo" && f.Recv != nil {
			if name, ok := f.Recv.List[0].Type.(*ast.Ident); ok {
				declared[name.Name] = true
			}
		}
	})
	if len(declared) < 30 {
		t.Fatalf("found %d expressions only", len(declared))
	}
	for _, dir := range []string{"explain", "../internal/kernel"} {
		known := make(map[string]bool)
		inspect(t, dir, func(n ast.Node) {
			if c, ok := n.(*ast.CaseClause); ok {
				for _, x := range c.List {
					if s, ok := x.(*ast.SelectorExpr); ok {
						known[s.Sel.Name] = true
					}
				}
			}
		})
		for name := range declared {
			if !known[name] {
				t.Errorf("%s has no case for %s", dir, name)
			}
		}
	}
}

// inspect walks the syntax of a package's files, without those of tests.
func inspect(t *testing.T, dir string, visit func(ast.Node)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if n != nil {
				visit(n)
			}
			return true
		})
	}
}
