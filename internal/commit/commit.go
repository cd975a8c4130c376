// Package commit decides which configuration is in force: that of the file, one that waits to be confirmed, or the last good one.
//
//	file ── Read ──► taken over ── Took ─────────────────────────► good: stands in for a file with mistakes
//	          └ Begin ──► taken over, waits ── Confirm ───────────► good
//	                            └── Due: not confirmed in time ──► the good one is taken over again
//
// A [Keeper] knows all that; a [Reloader] carries it out: it takes over what the file or time brings, by the functions of the daemon.
//
// The state directory has two documents: "config", the good one, and "unconfirmed", which holds the text that waits, what it
// would replace, and until when. The latter is on the disk before the kernel hears of the new configuration, so kill -9 and
// power cuts end in the good one. Time is that since the boot: a clock that is set makes nothing come sooner or later. After
// another boot nothing waits any more.
package commit

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/store"
)

// Names of the documents in the state directory.
const (
	docGood        = "config"
	docUnconfirmed = "unconfirmed"
)

// Bounds of how long a configuration waits to be confirmed.
const (
	minWait = time.Second
	maxWait = 24 * time.Hour
)

var (
	// ErrTakenBack means that the file holds what was not confirmed in time.
	ErrTakenBack = errors.New("the configuration file was not confirmed in time and has been reverted")
	// ErrNotWaiting means that there is nothing to confirm.
	ErrNotWaiting = errors.New("no configuration is waiting to be confirmed")
)

// Clock tells the time.
type Clock struct {
	Now    func() time.Time     // of day
	Uptime func() time.Duration // since the boot, time asleep included
	Boot   string               // which boot it is
}

// SystemClock is that of the machine.
func SystemClock() Clock {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it, only restarts within one boot are survived
	return Clock{Now: time.Now, Boot: strings.TrimSpace(string(boot)), Uptime: func() time.Duration {
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // which every kernel has
		return time.Duration(ts.Nano())
	}}
}

// Config is a configuration that is, or is to be, in force.
type Config struct {
	config.File
	Taken time.Time // when it was first taken over
	// Failure is why this one stands in the place of the file's; nil: it is the file's.
	Failure error
}

// goodText is the document of a configuration that was taken over.
type goodText struct {
	File  string    `json:"file"`
	Text  string    `json:"text"`
	Taken time.Time `json:"taken"`
}

// unconfirmed is the document of one that waits to be confirmed.
type unconfirmed struct {
	Good      goodText      `json:"good"` // what it would replace
	Text      string        `json:"text"`
	Boot      string        `json:"boot"`
	Until     time.Duration `json:"until_ns"`   // since the boot
	TakenBack bool          `json:"taken_back"` // a start does not take Text over any more
}

// Keeper keeps the good configuration and the one that waits. Its methods may be called by any goroutine.
type Keeper struct {
	file    string
	clock   Clock
	changed chan struct{} // has one element when what Remaining returns may have changed

	mu      sync.Mutex // guards what follows
	dir     *store.Dir
	dirPath string
	good    goodText
	wait    unconfirmed // Text is "" for none
}

// Start reads the configuration file, "" for none, and returns what is to be in force. When the file cannot be used, that is the
// last good configuration: a typing error must not keep a box off the network that is an hour's drive away. The error is what is
// wrong with the file when there is no such. Damaged is what could not be read of the state directory, which hinders nothing.
func Start(file string, clock Clock) (k *Keeper, c Config, damaged, err error) {
	k = &Keeper{file: file, clock: clock, changed: make(chan struct{}, 1)}
	read, failure := k.Read()
	if file == "" {
		return k, Config{File: read, Taken: clock.Now()}, nil, failure
	}
	k.dirPath = config.StateDir(readText(file))
	k.dir = store.Open(k.dirPath)
	damaged = k.dir.Load(docGood, &k.good)
	if lost := k.dir.Load(docUnconfirmed, &k.wait); lost != nil { // something waited, and may be in the file
		damaged = errors.Join(damaged, lost)
		k.wait = unconfirmed{Good: k.good, Text: string(read.Text), TakenBack: true}
	}
	if c, ok := k.resume(read, failure); ok {
		return k, c, damaged, nil
	}
	k.wait = unconfirmed{}
	if failure == nil {
		return k, Config{File: read, Taken: clock.Now()}, damaged, nil
	}
	c, err = k.Good(failure)
	return k, c, damaged, err
}

// State returns the state directory of the configuration in force, to keep everything in.
func (k *Keeper) State(path string) *store.Dir {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir == nil || k.dirPath != path { // the file names another, and is not in force
		k.dir, k.dirPath = store.Open(path), path
	}
	return k.dir
}

// resume goes on with a configuration that waits, or takes it back, or stays with what it was taken back to; false when none
// of that is to be done.
func (k *Keeper) resume(read config.File, failure error) (c Config, ok bool) {
	w := &k.wait
	if w.Text == "" || w.Good.Text == "" || w.Text == k.good.Text { // the last: confirmed, just before a crash
		return c, false
	}
	before := k.good
	k.good = w.Good
	defer func() {
		if !ok {
			k.good = before
		}
	}()
	text, usable := string(read.Text), failure == nil
	if usable && (text == w.Good.Text || w.TakenBack && text != w.Text) { // put back, or changed since, by hand
		return c, false
	}
	good, err := k.Good(fmt.Errorf("%s: %w", k.file, ErrTakenBack))
	if err != nil {
		return c, false // by a daemon that knew other keys
	}
	if k.waits() {
		if !usable || needsRestart(read.Config, good.Config) {
			failure = errors.Join(failure, errChangedMeanwhile(usable))
			read, err = parse(k.file, w.Text)
		}
		if err == nil {
			w.Text = string(read.Text)
			return Config{File: read, Taken: k.clock.Now(), Failure: failure}, true
		}
	}
	w.TakenBack = true
	if usable {
		w.Text = text
	} else {
		good.Failure = failure
	}
	return good, true
}

// errChangedMeanwhile is why a file that can be used is not, while another waits to be confirmed.
func errChangedMeanwhile(usable bool) error {
	if !usable {
		return nil
	}
	return errors.New("[daemon] or [kernel] was changed while a configuration is waiting to be confirmed")
}

// needsRestart reports whether two configurations differ in what only a start can change.
func needsRestart(a, b *config.Config) bool {
	return !reflect.DeepEqual(a.Daemon, b.Daemon) || a.Kernel != b.Kernel || !reflect.DeepEqual(a.Pair, b.Pair)
}

// Read reads the file.
func (k *Keeper) Read() (config.File, error) {
	if k.file != "" {
		if info, err := os.Stat(k.file); err == nil && !info.Mode().IsRegular() { // a FIFO would wait for ever
			return config.File{}, fmt.Errorf("reading the configuration: %s is not a regular file", k.file)
		}
	}
	return config.Load(k.file)
}

// readText returns what is in the file, as far as it can be read.
func readText(file string) []byte {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	text, _ := config.Read(file) // none when it may not be read
	return text
}

func parse(name, text string) (config.File, error) {
	c, lines, err := config.ParseLines(name, []byte(text))
	return config.File{Config: c, Lines: lines, Text: []byte(text)}, err
}

// Good returns the last good configuration in the place of the file's, which is wrong in this way; without one, the error is what
// is wrong.
func (k *Keeper) Good(failure error) (Config, error) {
	if k.good.Text == "" {
		return Config{}, failure
	}
	kept, err := parse(k.file, k.good.Text)
	if err != nil { // by a daemon that knew other keys
		return Config{}, errors.Join(failure, fmt.Errorf("the configuration of %v is unusable too: %w", k.good.Taken, err))
	}
	return Config{File: kept, Taken: k.good.Taken, Failure: failure}, nil
}

// waits reports whether a configuration may still be confirmed. The lock is held.
func (k *Keeper) waits() bool {
	w := &k.wait
	left := w.Until - k.clock.Uptime()
	return w.Text != "" && !w.TakenBack && w.Boot == k.clock.Boot && 0 < left && left <= maxWait
}

// Remaining returns how long the configuration in force still waits to be confirmed; false when it does not. It is 0
// when the time is over.
func (k *Keeper) Remaining() (time.Duration, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wait.Text == "" || k.wait.TakenBack {
		return 0, false
	}
	if !k.waits() {
		return 0, true
	}
	return k.wait.Until - k.clock.Uptime(), true
}

// Refuses returns why a text is not taken over without waiting for confirmation: nobody has confirmed it before. A program that
// asks for a reload is no confirmation.
func (k *Keeper) Refuses(text []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wait.TakenBack && k.wait.Text == string(text) {
		return fmt.Errorf("%s: %w: change it, or uplinkd reload --confirm 60s", k.file, ErrTakenBack)
	}
	return nil
}

// Begin has a configuration, which is taken over afterwards, wait for its confirmation; abort undoes that. An error means that
// what it would replace cannot be kept, and so the promise cannot be given; nothing has changed then.
func (k *Keeper) Begin(next config.File, wait time.Duration) (abort func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.good.Text == "" {
		return nil, errors.New("there is no earlier configuration to revert to")
	}
	w := unconfirmed{Good: k.good, Text: string(next.Text), Boot: k.clock.Boot, Until: k.clock.Uptime() + wait}
	if err := k.dir.Save(docUnconfirmed, w); err != nil {
		return nil, fmt.Errorf("the running configuration cannot be saved for reverting, so nothing was changed: %w", err)
	}
	before := k.wait
	k.wait = w
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.wait = before
	}, nil
}

// Took hears that a configuration was taken over from the file. It is the good one, unless it waits, or one before it does: then
// it waits in its place.
func (k *Keeper) Took(c Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(c.Text) == 0 || c.Failure != nil {
		return
	}
	text := string(c.Text)
	if k.wait.Text != "" && !k.wait.TakenBack && text != k.good.Text {
		k.wait.Text = text
		return
	}
	k.wait = unconfirmed{}
	if k.good.Text != text {
		k.good = goodText{k.file, text, c.Taken}
	}
}

// Confirm makes the configuration that waits the good one.
func (k *Keeper) Confirm() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.waits() {
		return ErrNotWaiting
	}
	good := goodText{k.file, k.wait.Text, k.clock.Now()}
	if err := k.dir.Save(docGood, good); err != nil { // this is the moment that counts, see resume
		return fmt.Errorf("not confirmed, because that cannot be saved: %w", err)
	}
	k.good, k.wait = good, unconfirmed{}
	return nil
}

// Due returns what is to be taken over again when the time of the one that waits is over. From then on a start does so too.
func (k *Keeper) Due() (Config, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wait.Text == "" || k.wait.TakenBack || k.waits() {
		return Config{}, false
	}
	k.wait.TakenBack = true
	if read, err := k.Read(); err == nil && string(read.Text) != k.good.Text { // it may have been changed meanwhile
		k.wait.Text = string(read.Text)
	}
	c, err := k.Good(fmt.Errorf("%s: %w", k.file, ErrTakenBack))
	return c, err == nil
}

// Save brings the documents up to date. It is to be called after Start, Begin, Took, Confirm and Due, and again when it fails.
func (k *Keeper) Save() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.good.Text == "": // there is no file
		return nil
	case k.wait.Text != "": // it holds the good one too
		return k.dir.Save(docUnconfirmed, k.wait)
	}
	if err := k.dir.Save(docGood, k.good); err != nil {
		return err
	}
	return k.dir.Remove(docUnconfirmed)
}
