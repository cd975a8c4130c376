package daemon

import (
	"errors"
	"fmt"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/rules"
)

// docConfig is the document that holds the last configuration that was taken over.
const docConfig = "config"

// goodConfig is a configuration that was taken over.
type goodConfig struct {
	File  string    `json:"file"`
	Text  string    `json:"text"`
	Taken time.Time `json:"taken"`
}

// configuration is what the daemon works by.
type configuration struct {
	config.File
	taken time.Time
	// failure is what is wrong with the file when the last good configuration stands in its place; nil: nothing.
	failure error
}

// readOrKept reads the configuration file. When that cannot be used, the last configuration that could takes its place: a
// typing error must not keep a box off the network that is an hour's drive away.
func (o *Options) readOrKept() (configuration, error) {
	file, failure := config.Load(o.ConfigFile)
	if failure == nil {
		return configuration{File: file, taken: time.Now()}, nil
	}
	text, _ := config.Read(o.ConfigFile) // none when the file is not there
	var good goodConfig
	if err := store.View(config.StateDir(text)).Load(docConfig, &good); err != nil || good.Text == "" {
		return configuration{}, failure
	}
	kept, lines, err := config.ParseLines(o.ConfigFile, []byte(good.Text))
	if err != nil { // by a daemon that knew other keys
		return configuration{}, errors.Join(failure, fmt.Errorf("the configuration of %v cannot be used either: %w", good.Taken, err))
	}
	return configuration{config.File{Config: kept, Lines: lines, Text: []byte(good.Text)}, good.Taken, failure}, nil
}

// saveConfig saves the configuration in force, for a start that finds a file with mistakes.
func (s *saver) saveConfig(file string, c configuration) {
	if len(c.Text) == 0 || c.failure != nil {
		return
	}
	s.save(docConfig, func() any { return goodConfig{file, string(c.Text), c.taken} })
}

// configStatus says which configuration is in force, and what is wrong with the file.
func (d *Daemon) configStatus() (s status.Config, problems []rules.Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s = status.Config{File: d.o.ConfigFile, Loaded: status.At(d.taken)}
	if d.configFailure == nil {
		return s, nil
	}
	s.Error = d.configFailure.Error()
	return s, []rules.Problem{{Code: "config", Severity: "error",
		Message: fmt.Sprintf("the configuration file cannot be used, so that of %s stays in force: %s", d.taken.Format(time.DateTime), s.Error),
		Fix:     fmt.Sprintf("correct it (uplinkd check -c %s), then: uplinkd reload", d.o.ConfigFile)}}
}
