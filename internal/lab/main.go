package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// Main is for TestMain of packages that build worlds:
//
//	func TestMain(m *testing.M) { lab.Main(m) }
//
// It runs the test binary once more inside private namespaces, where [New] works, passes signals on, and exits with
// the tests' exit code. It never returns. A test binary that plays other parts too, such as the daemon's, decides on
// that before it calls Main. The parameter is a *testing.M or something around it, such as a leak check.
func Main(m interface{ Run() int }) {
	if isChild() {
		if err := isolateNamespaces(); err != nil {
			fatal(err)
		}
		os.Exit(m.Run())
	}
	if slices.Contains(os.Args, "-test.fuzzworker") {
		os.Exit(m.Run()) // a child of the one inside, with pipes to it that another execution would lose
	}
	child := Child{
		Args:    os.Args[1:],
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Forward: []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT},
	}
	code, err := child.Run(context.Background())
	if err != nil {
		fatal(err)
	}
	os.Exit(code)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(1)
}
