package kernel_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel"
)

func TestANetworkNamespaceHasOneDaemon(t *testing.T) {
	namespace(t)
	release, err := kernel.Claim()
	if err != nil {
		t.Fatal(err)
	}
	for range 200 { // more than wait to be accepted
		if _, err := kernel.Claim(); !errors.Is(err, kernel.ErrClaimed) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Fatalf("the second: %v", err)
		}
	}
	release()
	release, err = kernel.Claim()
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	defer release()
	t.Run("another namespace", func(t *testing.T) {
		namespace(t)
		release, err := kernel.Claim()
		if err != nil {
			t.Fatal(err)
		}
		release()
	})
}

func TestWhoTakesTheNameAndIsNoDaemonIsNotTakenForOne(t *testing.T) {
	namespace(t)
	become := func(uid uintptr) { // this thread alone
		t.Helper()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0)); errno != 0 {
			t.Fatalf("becoming user %d: %v", uid, errno)
		}
	}
	become(65534)
	other, err := net.Listen("unix", "@uplinkd")
	become(0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := kernel.Claim(); err == nil || errors.Is(err, kernel.ErrClaimed) || !strings.Contains(err.Error(), "of user 65534") {
		t.Errorf("%v", err)
	}
}
