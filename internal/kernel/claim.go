package kernel

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ErrClaimed is the error of Claim where a living daemon has the network namespace.
var ErrClaimed = errors.New("another uplinkd manages this network namespace")

// claimName is a name of abstract sockets, of which each network namespace has its own (unix(7), net/unix/af_unix.c), and which end with
// their process.
const claimName = "@uplinkd"

// Claim takes the network namespace for this process until release is called, so that two daemons do not undo each other's work,
// whatever sockets and state directories they have. A daemon of the same user in the same namespace is an error that is
// ErrClaimed. Anybody may take such a name: what another user has claimed is no error of that kind.
func Claim() (release func(), err error) {
	listener, err := net.Listen("unix", claimName)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, claimed()
	} else if err != nil {
		return nil, fmt.Errorf("claiming the network namespace: %w", err)
	}
	done := make(chan struct{})
	go func() { // whoever asks is told who we are by the kernel
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	return func() { _ = listener.Close(); <-done }, nil
}

// claimed asks the kernel who has the name.
func claimed() error {
	conn, err := net.Dial("unix", claimName)
	if err != nil {
		return fmt.Errorf("asking who has claimed the network namespace: %w", err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); controlErr != nil {
		return controlErr
	}
	switch {
	case err != nil:
		return fmt.Errorf("asking who has claimed the network namespace: %w", err)
	case int(peer.Uid) != os.Geteuid():
		return fmt.Errorf("process %d of user %d has the name %s, which is ours", peer.Pid, peer.Uid, claimName)
	}
	return fmt.Errorf("%w: process %d", ErrClaimed, peer.Pid)
}
