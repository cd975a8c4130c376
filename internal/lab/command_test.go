package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// program runs this test binary as `uplinkd lab` of one user.
type program struct {
	t    *testing.T
	exe  string
	env  []string
	cred *syscall.Credential
}

func newProgram(t *testing.T) *program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lab") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &program{t: t, exe: exe, env: []string{"TMPDIR=" + dir, childEnv + "="}}
}

// asNobody returns the same for an ordinary user, with a copy of the program where that user may read it.
func asNobody(t *testing.T) *program {
	t.Helper()
	if os.Getenv("UPLINKD_SKIP_USERNS") != "" {
		t.Skip("UPLINKD_SKIP_USERNS is set")
	}
	p := newProgram(t)
	dir := strings.TrimPrefix(p.env[0], "TMPDIR=")
	if os.Getuid() != 0 || !capableRoot() {
		return p // we are an ordinary user
	}
	if data, err := os.ReadFile("/proc/self/uid_map"); err != nil || len(strings.Fields(string(data))) == 3 && strings.Fields(string(data))[2] == "1" {
		return p // and so we are outside of this user namespace, which has no other users
	}
	const nobody = 65534
	data, err := os.ReadFile(p.exe)
	if err != nil {
		t.Fatal(err)
	}
	p.exe = filepath.Join(dir, "uplinkd")
	if err := errors.Join(os.WriteFile(p.exe, data, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	p.cred = &syscall.Credential{Uid: nobody, Gid: nobody}
	return p
}

func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.exe, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// lab runs `uplinkd lab ARGS` to its end.
func (p *program) lab(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	var out, errs bytes.Buffer
	cmd := p.command(append([]string{"lab"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	code, err := exitCode(cmd.Run())
	if err != nil {
		p.t.Fatal(err)
	}
	return out.String(), errs.String(), code
}

// directory is where the lab of this user is.
func (p *program) directory() string {
	uid := os.Getuid()
	if p.cred != nil {
		uid = int(p.cred.Uid)
	}
	return filepath.Join(strings.TrimPrefix(p.env[0], "TMPDIR="), fmt.Sprintf("uplinkd-lab-%d", uid))
}

// runningLab is a `lab run` in the background.
type runningLab struct {
	*program
	cmd    *exec.Cmd
	output *transcript
	ended  chan struct{}
	err    error // of the process; valid when ended is closed
}

func (p *program) start(args ...string) *runningLab {
	p.t.Helper()
	l := &runningLab{program: p, output: &transcript{}, ended: make(chan struct{})}
	l.cmd = p.command(append([]string{"lab", "run"}, args...)...)
	l.cmd.Stdout, l.cmd.Stderr = l.output, l.output
	if err := l.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		l.err = l.cmd.Wait()
		close(l.ended)
	}()
	p.t.Cleanup(func() { _ = l.cmd.Process.Kill() })
	return l
}

func (l *runningLab) says(ctx context.Context, text string) {
	l.t.Helper()
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-l.ended:
			stop()
		case <-waiting.Done():
		}
	}()
	err := Until(waiting, fmt.Sprintf("the lab to say %q", text), func() error {
		if out := l.output.String(); !strings.Contains(out, text) {
			return errors.New(out)
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// ends waits for the end and returns the exit code.
func (l *runningLab) ends(ctx context.Context) int {
	l.t.Helper()
	select {
	case <-l.ended:
		code, err := exitCode(l.err)
		if err != nil {
			l.t.Fatal(err)
		}
		return code
	case <-ctx.Done():
		l.t.Fatalf("the lab does not end:\n%s", l.output)
		return 0
	}
}

// nothingRemains checks that no process of a lab lives and no directory is left. Every process of a lab has its
// directory in its environment.
func (p *program) nothingRemains(ctx context.Context) {
	p.t.Helper()
	needle := []byte(directoryEnv + "=" + p.directory())
	err := Until(ctx, "the lab's processes to be gone", func() error {
		environs, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil {
			return err
		}
		for _, path := range environs {
			if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, needle) {
				return fmt.Errorf("%s is of the lab", filepath.Dir(path))
			}
		}
		return nil
	})
	if err != nil {
		p.t.Error(err)
	}
}

const upAndRunning = "and nothing remains"

func TestALabIsRunBrokenHealedAndEnded(t *testing.T) {
	t.Parallel()
	for name, user := range map[string]func(*testing.T) *program{"as root": newProgram, "as an ordinary user": asNobody} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := user(t)
			ctx := within(t)
			l := p.start("--listen", "127.0.0.1:0")
			l.says(ctx, upAndRunning)

			if body := get(t, ctx, regexp.MustCompile(`http://\S+`).FindString(l.output.String())); body != "a dashboard" {
				t.Errorf("the dashboard says %q", body)
			}
			if _, stderr, code := p.lab("run"); code != 1 || !strings.Contains(stderr, "a lab is running already") {
				t.Errorf("a second lab: %d, %s", code, stderr)
			}
			stdout, stderr, code := p.lab("exec", "isp2", "--", "sh", "-c", "ls /sys/class/net; pwd; echo oh >&2; exit 7")
			if diff := cmp.Diff([]string{"cust2", "lo", "up0", "/"}, strings.Fields(stdout)); diff != "" || stderr != "oh\n" || code != 7 {
				t.Errorf("exec: %d, %q, %s", code, stderr, diff)
			}
			if stdout, stderr, code := p.lab("break", "loss=5", Fiber); code != 0 || !strings.Contains(stdout, "loss 5% for 0s") {
				t.Errorf("break: %d, %s%s", code, stdout, stderr)
			}
			if stdout, _, code := p.lab("status"); code != 0 || !strings.Contains(stdout, "loss 5%") || !strings.Contains(stdout, "lan router isp1 isp2 inet") {
				t.Errorf("status: %d, %s", code, stdout)
			}
			if stdout, stderr, code := p.lab("heal"); code != 0 || strings.Contains(stdout, "loss") {
				t.Errorf("heal: %d, %s%s", code, stdout, stderr)
			}
			if stdout, stderr, code := p.lab("down"); code != 0 || stdout != "the lab is down\n" {
				t.Errorf("down: %d, %s%s", code, stdout, stderr)
			}
			if code := l.ends(ctx); code != 0 {
				t.Errorf("the lab ended with %d:\n%s", code, l.output)
			}
			p.nothingRemains(ctx)
			if _, err := os.Stat(p.directory()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the lab's directory: %v", err)
			}
		})
	}
}

func get(t *testing.T, ctx context.Context, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}}
	res, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

func TestTheDemonstrationShowsAFailover(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	l := newProgram(t).start("--listen", "127.0.0.1:0", "--demo")
	l.says(ctx, upAndRunning)
	out := l.output.String()
	for _, want := range []string{
		`before                 IPv4 over fiber, IPv6 over fiber; daemon: fiber up\n`,
		`new IPv4 flows         stood still for \d+ms, now over lte as 203\.0\.113\.2\n`,
		`new IPv6 flows         stood still for \d+ms, now over lte as 2001:db8:b::2\n`,
		`the old flow           moved to lte after \S+, from 198\.51\.100\.2:\d+ to 203\.0\.113\.2:\d+\n`,
		`a remote client        192\.0\.2\.100 asked 203\.0\.113\.2 and was answered from there in \S+\n`,
		`a remote client        2001:db8:ffff::100 asked 2001:db8:b::2 and was answered from there in \S+\n`,
		`new IPv4 flows         back on fiber \d+\.\d s after healing; longest pause since: \S+\n`,
		`new IPv6 flows         back on fiber \d+\.\d s after healing; longest pause since: \S+\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("the demonstration does not say %s", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	if err := l.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := l.ends(ctx); code != 0 {
		t.Errorf("after Ctrl-C the lab ended with %d:\n%s", code, l.output)
	}
	l.nothingRemains(ctx)
}

func TestAKilledLabLeavesOnlyItsDirectoryWhichIsRecognised(t *testing.T) {
	t.Parallel()
	for name, user := range map[string]func(*testing.T) *program{"as root": newProgram, "as an ordinary user": asNobody} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := user(t)
			ctx := within(t)
			l := p.start("--listen", "127.0.0.1:0")
			l.says(ctx, upAndRunning)
			if err := l.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			l.ends(ctx)
			p.nothingRemains(ctx)
			if _, stderr, code := p.lab("status"); code != 1 || stderr != "uplinkd lab: no lab is running: start one with uplinkd lab run\n" {
				t.Errorf("status: %d, %s", code, stderr)
			}
			again := p.start("--listen", "127.0.0.1:0")
			again.says(ctx, upAndRunning)
			again.says(ctx, "removed what a killed lab left in "+p.directory())
			if err := again.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			again.ends(ctx)
			if stdout, stderr, code := p.lab("down"); code != 0 || stdout != "no lab was running; what a killed one left is removed\n" {
				t.Errorf("down: %d, %s%s", code, stdout, stderr)
			}
			if stdout, _, code := p.lab("down"); code != 0 || stdout != "no lab was running\n" {
				t.Errorf("down once more: %d, %s", code, stdout)
			}
		})
	}
}

func TestADaemonThatFailsIsShown(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	p.env = append(p.env, "UPLINKD_TEST_DAEMON_FAILS=no such luck")
	_, stderr, code := p.lab("run", "--listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, "the daemon ended: exit status 1; the end of its log:\n  no such luck") {
		t.Errorf("%d, %s", code, stderr)
	}
	p.nothingRemains(within(t))
}

func TestMistakesOnTheCommandLineAreNamed(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	for _, c := range []struct{ args, want string }{
		{"frob", "uplinkd lab frob: wrong usage: there is no such command\n"},
		{"break carrier", "uplinkd lab break: wrong usage: it takes a kind and an uplink\n"},
		{"run --uplinks 9", "uplinkd lab run: wrong usage: a world has 2 to 4 uplinks, not 9\n"},
		{"run --rp-filter on", "uplinkd lab run: wrong usage: rp_filter is strict, loose or off, not \"on\"\n"},
		{"run --listen 192.0.2.1:80", "uplinkd lab run: wrong usage: --listen is a loopback address and a port such as 127.0.0.1:9275, not \"192.0.2.1:80\"\n"},
		{"run fast", "uplinkd lab run: wrong usage: \"fast\" is too much\n"},
		{"run --fast", "uplinkd lab run: wrong usage: flag provided but not defined: -fast\n"},
		{"exec", "uplinkd lab exec: wrong usage: it takes a host and a command\n"},
		{"heal fiber lte", "uplinkd lab heal: wrong usage: it takes one uplink at most\n"},
	} {
		_, stderr, code := p.lab(strings.Fields(c.args)...)
		if want := c.want + "see uplinkd lab help\n"; code != 2 || stderr != want {
			t.Errorf("lab %s: %d, %q, want %q", c.args, code, stderr, want)
		}
	}
	if _, stderr, code := p.lab(); code != 2 || stderr != usage {
		t.Errorf("lab alone: %d, %s", code, stderr)
	}
	if stdout, _, code := p.lab("help"); code != 0 || stdout != usage {
		t.Errorf("lab help: %d, %s", code, stdout)
	}
	for _, command := range []string{"break carrier fiber", "heal", "status", "exec lan -- true"} {
		if _, stderr, code := p.lab(strings.Fields(command)...); code != 1 || stderr != "uplinkd lab: no lab is running: start one with uplinkd lab run\n" {
			t.Errorf("lab %s: %d, %s", command, code, stderr)
		}
	}
}

func TestSomebodyElsesDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	if err := os.Mkdir(p.directory(), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := p.lab("run"); code != 1 || !strings.Contains(stderr, "is not a directory of yours alone") {
		t.Errorf("%d, %s", code, stderr)
	}
}

func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	_, err := findTool("uplinkd-no-such-tool", "nftables")
	if err == nil || err.Error() != `the lab needs the program "uplinkd-no-such-tool": apt install nftables` {
		t.Error(err)
	}
	t.Setenv("PATH", "/nonexistent")
	if _, err := findTools(); err != nil {
		t.Errorf("the directories of system programs are not searched: %v", err)
	}
}
