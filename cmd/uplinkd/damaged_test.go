package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/store/storetest"
	"github.com/uplinkd/uplinkd/rules"
)

// How many damaged state directories, and configurations with mistakes, a start is tried with.
const (
	damagedEnv  = "UPLINKD_DAMAGED"
	fewDamaged  = 4
	mistakesEnv = "UPLINKD_MISTAKES"
	fewMistakes = 4
)

// wreck is a router that starts, as after a reboot, on what it finds.
type wreck struct {
	*router
	state string
	good  map[string][]byte // the files of the state directory, as a daemon has left them
	text  string            // of the good configuration
	rand  *rand.Rand
	undo  []func()
}

// newWreck has a daemon work with leases, advertised prefixes, a LAN and a policy, and ends it.
func newWreck(t *testing.T) *wreck {
	w := &wreck{router: newRouter(t, lab.Options{}, leased), good: make(map[string][]byte), rand: rand.New(rand.NewPCG(uint64(envNumber(t, seedEnv, 1)), 7))}
	w.state = filepath.Join(w.dir, "state")
	w.serve()
	w.sh("router", "ip address flush dev wan1 scope global; ip -6 route flush dev wan1 default; ip route flush dev wan1")
	newProvider(w.router, "fiber")
	w.start()
	(&chaos{router: w.router, provider: new(provider)}).awaitWell()
	w.command("drain", "--socket", w.socket(), "lte")
	w.command("undrain", "--socket", w.socket(), "lte")
	w.stop()
	entries, err := os.ReadDir(w.state)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if w.good[e.Name()], err = os.ReadFile(filepath.Join(w.state, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	w.text = w.configured()
	for _, name := range []string{"ids.json", "config.json", "recorded.json", "identity.json", "leases4.json", "routers6.json", "leases6.json", "lans6.json", "verdicts.json", "drained.json", "events.log"} {
		if w.good[name] == nil {
			t.Errorf("%s was not written", name)
		}
	}
	return w
}

// reboot puts the state directory and the file back, takes away what is ours in the kernel, and has something damage the former.
func (w *wreck) reboot(damage func()) {
	w.Helper()
	w.sh("router", `for f in -4 -6; do ip $f rule flush protocol 117; ip $f route flush table all proto 117; done; nft flush ruleset
		ip address flush dev wan1 scope global`)
	_ = os.RemoveAll(w.state)
	if err := os.Mkdir(w.state, 0o700); err != nil {
		w.Fatal(err)
	}
	for name, text := range w.good {
		w.write(filepath.Join(w.state, name), string(text))
	}
	w.write(w.config, w.text)
	damage()
}

// online checks that the LAN is, soon, by both families, and that the daemon says these codes.
func (w *wreck) online(what string, codes []string) {
	w.Helper()
	began := time.Now()
	w.launch()
	for _, target := range []string{other4, other6} {
		w.await("the LAN to be online: "+what, func() error {
			if w.process.ProcessState != nil {
				return errors.New("the daemon has ended")
			}
			_, err := w.by("lan", target)
			return err
		})
	}
	took := time.Since(began)
	w.await("the daemon to say what is wrong: "+what, func() error {
		s, err := w.client.Status(w.Context())
		if err != nil {
			return err
		}
		if !s.Converged {
			return errors.New("not converged")
		}
		for _, code := range codes {
			if !slices.ContainsFunc(s.Problems, func(p rules.Problem) bool { return p.Code == code && p.Fix != "" }) {
				return fmt.Errorf("%s is not among %+v", code, s.Problems)
			}
		}
		return nil
	})
	if rss := w.resident(); rss > 256<<10 { // with the race detector it is several times what it is without
		w.Errorf("%s: %d KiB are resident", what, rss)
	}
	w.Logf("online after %v: %s", took.Round(10*time.Millisecond), what)
	w.kill()
	for _, undo := range slices.Backward(w.undo) {
		undo()
	}
	w.undo = nil
	if w.Failed() {
		w.Fatalf("seed %d: %s", envNumber(w.TB, seedEnv, 1), what)
	}
}

// TestTheLANIsOnlineWhateverTheStateDirectoryHolds starts on state directories that are damaged in their bytes, in their
// meaning, or are none at all. A failure names the damage, and the seed that draws it.
func TestTheLANIsOnlineWhateverTheStateDirectoryHolds(t *testing.T) {
	t.Parallel()
	w := newWreck(t)
	for range envNumber(t, damagedEnv, fewDamaged) {
		var what []string
		var codes []string
		w.reboot(func() {
			for range 1 + w.rand.IntN(3) {
				name, code := w.damage()
				what = append(what, name)
				if code != "" {
					codes = append(codes, code)
				}
				if strings.HasPrefix(name, "state directory") {
					codes = slices.DeleteFunc(codes, func(c string) bool { return c != code })
					return
				}
			}
		})
		w.online(strings.Join(what, "; "), codes)
	}
	if n := w.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, w.foreignSources())
	}
}

// damage damages something, and returns what, and the code of the problem that it is sure to be.
func (w *wreck) damage() (what, code string) {
	name := slices.Sorted(maps.Keys(w.good))[w.rand.IntN(len(w.good))]
	file := filepath.Join(w.state, name)
	isLog := strings.HasSuffix(name, ".log")
	if err := os.RemoveAll(file); err != nil { // what was put there before
		w.Fatal(err)
	}
	switch w.rand.IntN(8) {
	case 0:
		return w.damageDirectory()
	case 1, 2:
		how := w.damagePlace(file)
		return name + ": " + how, "state-damaged"
	case 3:
		text := []byte(w.pick("", "[]", `"x"`, "7", "null", "{", strings.Repeat("[", 20000), `{"fiber":[]}`, `{"fiber":null}`, `{"fiber":{}}`,
			`{"fiber":1e300,"fiber/ipv4":-1e300}`, "{\"\xff\":1}", `{"a":"`+strings.Repeat("y", 5<<20)+`"}`, strings.Repeat("\x00", 4096)))
		w.write(file, string(text))
		return fmt.Sprintf("%s: holds %.20q", name, text), ""
	case 4:
		text := bytes.Clone(w.good[name])
		for range 1 + w.rand.IntN(20) {
			text[w.rand.IntN(len(text))] ^= 1 << w.rand.IntN(8)
		}
		w.write(file, string(text))
		return name + ": flipped bits", ""
	case 5:
		n := w.rand.IntN(len(w.good[name]) - 2)
		w.write(file, string(w.good[name][:n]))
		if isLog {
			return fmt.Sprintf("%s: its first %d bytes", name, n), ""
		}
		return fmt.Sprintf("%s: its first %d bytes", name, n), "state-damaged"
	}
	if isLog {
		w.write(file, `{"id":18446744073709551615,"time":"9999-12-31T23:59:59Z","kind":"verdict"}`+"\n")
		return name + ": an id without end", ""
	}
	var doc any
	if err := json.Unmarshal(w.good[name], &doc); err != nil {
		w.Fatal(err)
	}
	doc = storetest.Hostile(w.rand, doc, 0.3)
	text, err := json.Marshal(doc)
	if err != nil {
		w.Fatal(err)
	}
	w.write(file, string(text))
	return fmt.Sprintf("%s: means %.300s", name, text), ""
}

func (w *wreck) pick(from ...string) string { return from[w.rand.IntN(len(from))] }

// damagePlace puts something else in the place of a file.
func (w *wreck) damagePlace(file string) (how string) {
	var err error
	switch how = w.pick("a directory", "a full directory", "a FIFO", "a socket", "a symbolic link to itself"); how {
	case "a directory":
		err = os.Mkdir(file, 0o700)
	case "a full directory":
		err = os.MkdirAll(filepath.Join(file, "x"), 0o700)
	case "a FIFO":
		err = unix.Mkfifo(file, 0o600)
	case "a socket":
		var l *net.UnixListener
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"}); err == nil {
			l.SetUnlinkOnClose(false)
			err = l.Close()
		}
	default:
		err = os.Symlink(filepath.Base(file), file)
	}
	if err != nil {
		w.Fatal(err)
	}
	return how
}

// damageDirectory puts something else in the place of the state directory.
func (w *wreck) damageDirectory() (what, code string) {
	clear := func() {
		if err := os.RemoveAll(w.state); err != nil {
			w.Fatal(err)
		}
	}
	mount := func(options string, flags uintptr, fill bool) {
		if err := unix.Mount("tmpfs", w.state, "tmpfs", 0, options); err != nil {
			w.Fatal(err)
		}
		w.undo = append(w.undo, func() { _ = unix.Unmount(w.state, unix.MNT_DETACH) })
		if fill {
			_ = os.WriteFile(filepath.Join(w.state, "fill"), make([]byte, 1<<20), 0o600) // as much as there is room for
		}
		if flags != 0 {
			if err := unix.Mount("", w.state, "", flags, ""); err != nil {
				w.Fatal(err)
			}
		}
	}
	check := func(err error) {
		if err != nil {
			w.Fatal(err)
		}
	}
	what = w.pick("missing", "a file", "a symbolic link to itself", "a dangling symbolic link", "a FIFO", "read-only", "full", "4 KiB small", "everybody's")
	code = "state-not-saved"
	switch what {
	case "missing":
		clear()
		code = ""
	case "a file":
		clear()
		check(os.WriteFile(w.state, []byte("x"), 0o600))
	case "a symbolic link to itself":
		clear()
		check(os.Symlink(w.state, w.state))
	case "a dangling symbolic link":
		clear()
		check(os.Symlink(filepath.Join(w.dir, "nowhere"), w.state))
		w.undo = append(w.undo, func() { _ = os.RemoveAll(filepath.Join(w.dir, "nowhere")) })
	case "a FIFO":
		clear()
		check(unix.Mkfifo(w.state, 0o600))
	case "read-only":
		mount("size=64k", unix.MS_REMOUNT|unix.MS_RDONLY, false)
	case "full":
		mount("size=64k", 0, true)
	case "4 KiB small":
		mount("size=4k", 0, false)
	case "everybody's":
		check(os.Chmod(w.state, 0o777))
		code = ""
	}
	return "state directory: " + what, code
}

// TestTheLANIsOnlineWhateverMistakeTheFileHas starts with configurations that cannot be used. A failure names the mistake.
func TestTheLANIsOnlineWhateverMistakeTheFileHas(t *testing.T) {
	t.Parallel()
	w := newWreck(t)
	preamble := strings.Index(w.text, "[kernel]") // where the state directory is must be found
	for range envNumber(t, mistakesEnv, fewMistakes) {
		text, what := w.text, ""
		code := "config"
		for {
			text, what = w.mistake(preamble)
			if _, err := config.Parse("f", []byte(text)); err != nil {
				break
			}
			if strings.HasPrefix(what, "usable") {
				break
			}
		}
		if name, is := strings.CutPrefix(what, "usable: "); is {
			code = name
		}
		w.reboot(func() { w.write(w.config, text) })
		w.online(what, []string{code})
	}
}

// mistake makes one in the good text, behind the offset.
func (w *wreck) mistake(from int) (text, what string) {
	body := w.text[from:]
	at := from + w.rand.IntN(len(body))
	line := func(s string) string { return s + "\n" + w.text[from:] }
	switch w.rand.IntN(9) {
	case 0:
		return w.text[:at], fmt.Sprintf("cut off at %d", at)
	case 1:
		b := []byte(w.text)
		for i := at; i < min(len(b), at+512); i++ {
			b[i] = 0
		}
		return string(b), fmt.Sprintf("zeros from %d on", at)
	case 2:
		b := []byte(w.text)
		b[at] = byte(w.rand.IntN(256))
		return string(b), fmt.Sprintf("another byte at %d", at)
	case 3:
		word := w.pick("device", "name", "tier", "uplinks", "method", "targets", "prefixes_from", "fallback")
		return w.text[:from] + strings.Replace(body, word+" =", w.pick("devcie", "nmae", "x")+" =", 1), "a key that there is not, for " + word
	case 4:
		return w.text[:from] + strings.Replace(body, "\"lte\"", w.pick("\"ltee\"", "7", "[]", "\"\"", "true"), 1+w.rand.IntN(2)), "another name"
	case 5:
		return w.text + w.text[from:], "everything twice"
	case 6:
		return w.text + "\n[[uplink]]\nname = \"vps\"\nkind = \"wireguard\"\ndevice = \"wg9\"\n  [uplink.wireguard]\n  private_key_file = \"" + w.dir + "/nokey\"\n" +
			"  addresses = [\"10.9.0.2/24\"]\n  peers = [{ public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\", endpoint = \"192.0.2.9:51820\", allowed_ips = [\"10.9.0.0/24\"] }]\n", "usable: config"
	case 7:
		return w.text[:from] + line("token_file = \""+w.dir+"/notoken\""), "usable: token-file"
	default:
		return w.text + "\n[[lan]]\ndevice = \"lan0\"\nsubnet_id = -1\n", "a number out of range"
	}
}
