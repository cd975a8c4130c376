package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// actAsProgram makes the test binary the program itself, so that tests run what they were built with.
const actAsProgram = "UPLINKD_TEST_ACT_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(actAsProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
		stop()
		os.Exit(code)
	}
	lab.Main(m)
}
