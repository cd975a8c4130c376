package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/status"
)

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestSocketHasItsModeAndGoesAway(t *testing.T) {
	_, socket, stop := serve(t, newServer(newDaemon()))
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("the mode is %v", info.Mode())
	}
	stop()
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestTheSocketMayBeGivenToAGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can give files away: run the tests as root, as the others of the kernel are")
	}
	_, socket, _ := serve(t, newServer(newDaemon()))
	if err := os.Chmod(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := ShareSocket(socket, "nobody-made-this"); !errors.Is(err, user.UnknownGroupError("nobody-made-this")) {
		t.Errorf("got %v", err)
	}
	if hint := groupHint(socket); hint != "" {
		t.Errorf("a socket of root alone: %q", hint)
	}
	if err := ShareSocket(socket, "nogroup"); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(socket, &st); err != nil || st.Uid != 0 || st.Gid != 65534 || st.Mode&0o777 != 0o660 {
		t.Errorf("uid %d, gid %d, mode %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
	if hint := groupHint(socket); !strings.Contains(hint, "--groups nogroup ") {
		t.Errorf("the hint is %q", hint)
	}
}

func TestSecondDaemonIsRefusedAndTheFirstUnharmed(t *testing.T) {
	_, socket, _ := serve(t, newServer(newDaemon()))
	_, err := Listen(t.Context(), socket, "")
	if !errors.Is(err, ErrRunning) || err.Error() != "another uplinkd answers on "+socket {
		t.Errorf("got %v", err)
	}
	if _, err := Dial(socket).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOnlyOneOfManyDaemonsGetsAStaleSocket(t *testing.T) {
	socket := staleSocket(t)
	var won atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			l, err := Listen(t.Context(), socket, "")
			if err == nil {
				won.Add(1)
				t.Cleanup(func() { _ = l.Close() })
			} else if !errors.Is(err, ErrRunning) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d daemons have the socket", won.Load())
	}
}

// staleSocket leaves what a killed daemon leaves.
func staleSocket(t *testing.T) string {
	t.Helper()
	socket := socketPath(t)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return socket
}

func TestStaleSocketIsReplaced(t *testing.T) {
	socket := staleSocket(t)
	l, err := Listen(t.Context(), socket, "")
	if err != nil {
		t.Fatal(err)
	}
	if l.TCPAddr() != nil {
		t.Error("TCP is on")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoSocketIsNotRemoved(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if _, err := Listen(t.Context(), path, ""); err == nil || !strings.Contains(err.Error(), "is not a socket") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file is %q, %v", data, err)
	}
	if _, err := Listen(t.Context(), filepath.Join(file, "x.sock"), ""); err == nil {
		t.Error("a directory was made inside a file")
	}
}

func TestALockMeansAStartingDaemon(t *testing.T) {
	socket := socketPath(t)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(socket + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), socket, ""); !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), "just starting") {
		t.Errorf("got %v", err)
	}
	unlock()
	l, err := Listen(t.Context(), socket, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// Whoever may open the socket's directory, or write into it, keeps nobody from starting.
func TestLocksOfOthersDoNotCount(t *testing.T) {
	for name, occupy := range map[string]func(dir, file string) error{
		"the directory itself": func(dir, _ string) error { return flock(t, dir) },
		"a file that others may open": func(_, file string) error {
			return errors.Join(os.WriteFile(file, nil, 0o600), os.Chmod(file, 0o644), flock(t, file))
		},
		"a file of somebody else": func(_, file string) error {
			return errors.Join(os.WriteFile(file, nil, 0o600), os.Chown(file, 65534, 65534), flock(t, file))
		},
		"a FIFO":          func(_, file string) error { return unix.Mkfifo(file, 0o600) },
		"a symbolic link": func(dir, file string) error { return os.Symlink("/dev/null", file) },
		"a directory":     func(_, file string) error { return os.MkdirAll(filepath.Join(file, "full"), 0o700) },
	} {
		socket := socketPath(t)
		if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := occupy(filepath.Dir(socket), socket+".lock"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		l, err := Listen(t.Context(), socket, "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = l.Close()
	}
}

func flock(t *testing.T, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = f.Close() })
	return unix.Flock(int(f.Fd()), unix.LOCK_EX)
}

func TestASocketThatIsTakenAwayComesBack(t *testing.T) {
	for name, take := range map[string]func(socket string) error{
		"removed": os.Remove,
		"with its directory": func(socket string) (err error) {
			for range 100 { // the server may make a new one in between
				if err = os.RemoveAll(filepath.Dir(socket)); !errors.Is(err, syscall.ENOTEMPTY) {
					break
				}
			}
			return err
		},
		"and a file there": func(socket string) error {
			return errors.Join(os.Remove(socket), os.WriteFile(socket, []byte("precious"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(newDaemon())
			s.limits.look = time.Millisecond
			socket := socketPath(t)
			ctx, cancel := context.WithCancel(t.Context())
			var done sync.WaitGroup
			reports := make(chan error, 1000)
			bind := func(ctx context.Context) (*Listeners, error) { return Listen(ctx, socket, "") }
			done.Go(func() { s.Answer(ctx, nil, bind, func(err error) { reports <- err }) })
			defer done.Wait()
			defer cancel()
			if err := <-reports; err != nil {
				t.Fatal(err)
			}
			if _, err := Dial(socket).Status(ctx); err != nil {
				t.Fatal(err)
			}
			if err := take(socket); err != nil {
				t.Fatal(err)
			}
			if name == "and a file there" {
				if err := <-reports; err == nil || !strings.Contains(err.Error(), "is not a socket") {
					t.Errorf("%v", err)
				}
				if err := os.Remove(socket); err != nil { // it is still there
					t.Fatal(err)
				}
			}
			for err := range reports {
				if err == nil {
					break
				}
			}
			if _, err := Dial(socket).Status(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTCPAddressInUseLeavesNothingBehind(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	socket := socketPath(t)
	address := taken.Addr().String()
	_, err = Listen(t.Context(), socket, address)
	if want := fmt.Sprintf("listening on %s: bind: address already in use", address); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unix socket is still there: %v", err)
	}
}

func TestTCPAddressNeedNotExistYet(t *testing.T) {
	for _, address := range []string{"192.0.2.77:0", "[2001:db8::77]:0"} {
		l, err := listenTCP(t.Context(), address)
		if err != nil {
			if strings.HasPrefix(address, "[") && errors.Is(err, unix.EAFNOSUPPORT) {
				continue // a kernel without IPv6
			}
			t.Error(err)
			continue
		}
		_ = l.Close()
	}
}

func TestIPv4WildcardIsNotEveryIPv6AddressToo(t *testing.T) {
	l, err := listenTCP(t.Context(), "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := l.Addr().String(); !strings.HasPrefix(got, "0.0.0.0:") {
		t.Errorf("it listens on %s", got)
	}
}

func TestTCPAnswersReadersOnly(t *testing.T) {
	l, _, _ := serve(t, newServer(newDaemon()))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	base := "http://" + l.TCPAddr().String()
	for _, test := range []struct {
		method, path string
		want         int
	}{{"GET", "/api/v1/status", 200}, {"POST", "/api/v1/reload", 403}, {"GET", "/nothing", 404}} {
		req, err := http.NewRequestWithContext(t.Context(), test.method, base+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != test.want {
			t.Errorf("%s %s is %s", test.method, test.path, resp.Status)
		}
	}
}

// raw sends bytes over TCP and returns the status line of the answer.
func raw(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return rawOn(t, conn, request)
}

func rawOn(t *testing.T, conn net.Conn, request string) string {
	t.Helper()
	go func() { _, _ = io.WriteString(conn, request) }() // fails when the answer comes first
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestOversizedAndBrokenRequests(t *testing.T) {
	l, _, _ := serve(t, newServer(newDaemon()))
	address := l.TCPAddr().String()
	for name, test := range map[string]struct{ request, want string }{
		"a header beyond the limit": {
			"GET / HTTP/1.1\r\nHost: localhost\r\nX-Big: " + strings.Repeat("x", 32<<10) + "\r\n\r\n",
			"HTTP/1.1 431 Request Header Fields Too Large",
		},
		"a body beyond the limit": {
			"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n",
			"HTTP/1.1 413 Request Entity Too Large",
		},
		"no host":  {"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"no HTTP":  {"\x16\x03\x01\x02\x00\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"rebound":  {"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "HTTP/1.1 403 Forbidden"},
		"absolute": {"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 403 Forbidden"},
	} {
		if got := raw(t, address, test.request); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestIdleConnectionsDoNoHarm(t *testing.T) {
	s := newServer(newDaemon())
	s.limits.headerTimeout = 100 * time.Millisecond // how long an idle one may hold its place
	l, socket, _ := serve(t, s)
	for range 200 {
		conn, err := net.Dial("tcp", l.TCPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := Dial(socket).Status(t.Context()); err != nil {
		t.Errorf("the operator on the unix socket is locked out: %v", err)
	}
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := other.Dial("tcp", l.TCPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := rawOn(t, conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); got != "HTTP/1.1 200 OK" {
		t.Errorf("another client beside the idle ones: %q", got)
	}
}

func TestServeEndsWithAFollowerAndAnIdleConnection(t *testing.T) {
	s := newServer(newDaemon())
	s.limits.grace = 10 * time.Millisecond
	l, socket, stop := serve(t, s)
	idle, err := net.Dial("tcp", l.TCPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	following := make(chan struct{})
	ended := make(chan error, 1)
	fill(s.o.Events, 1)
	go func() {
		ended <- Dial(socket).Events(context.Background(), 0, true, func(status.Event) error { close(following); return nil })
	}()
	<-following
	stop()
	if err := <-ended; !errors.Is(err, ErrStreamEnded) {
		t.Errorf("the follower got %v", err)
	}
}

func TestServeSaysWhenAListenerFails(t *testing.T) {
	l, err := Listen(t.Context(), socketPath(t), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.tcp.Close()
	if err := newServer(newDaemon()).Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "serving on 127.0.0.1:") {
		t.Errorf("got %v", err)
	}
}
