package sets

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/store"
)

// cacheDir is where contents are kept over restarts: a list each, as parse reads it, behind a line about it.
func cacheDir(stateDir string) string { return filepath.Join(stateDir, "sets") }

// cacheHead is the line about a content, behind cacheMark.
type cacheHead struct {
	Source string                              `json:"source"` // of another one the content is nobody's
	Loaded time.Time                           `json:"loaded"`
	ETag   string                              `json:"etag,omitempty"`
	Since  string                              `json:"last_modified,omitempty"`
	Names  map[string]map[netip.Addr]time.Time `json:"names,omitempty"` // until when each address of a name holds
}

const cacheMark = "# uplinkd "

// sourceOf is what the content of a set is from.
func sourceOf(s *config.Set) string {
	return s.Source() + " " + s.File + s.URL + strings.Join(s.Domains, " ")
}

// restore takes what the cache has of a set.
func (e *Engine) restore(s *set) {
	text, err := os.ReadFile(filepath.Join(e.dir, s.Name))
	if err != nil || len(text) > maxBytes {
		return
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	var head cacheHead
	if json.Unmarshal(bytes.TrimPrefix(line, []byte(cacheMark)), &head) != nil || head.Source != sourceOf(&s.Set) {
		return
	}
	content, err := parse(bytes.NewReader(text))
	if err != nil && len(head.Names) == 0 {
		return
	}
	s.content, s.loaded, s.cached = content, head.Loaded, true
	s.fetch.etag, s.fetch.modified, s.names.known = head.ETag, head.Since, head.Names
	if s.Source() == "domains" {
		s.content = s.names.addresses()
	}
}

// save writes what is known of a set into the cache. Without it a restart would begin without the set, and nothing else is wrong.
func (e *Engine) save(s *set) {
	e.mu.Lock()
	head := cacheHead{Source: sourceOf(&s.Set), Loaded: s.loaded, ETag: s.fetch.etag, Since: s.fetch.modified, Names: s.names.clone()}
	content, dir := s.content, e.dir
	e.mu.Unlock()
	line, err := json.Marshal(head)
	if err != nil {
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\n", cacheMark, line)
	write(&b, content)
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = store.WriteFile(filepath.Join(dir, s.Name), b.Bytes(), 0o600)
	}
	if err != nil {
		e.o.Log.Warn("a set is not kept over a restart", "set", s.Name, "err", err)
	}
}
