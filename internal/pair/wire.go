package pair

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// protocol is the version of what is said between the daemons. They take nothing from another one's.
const protocol = 1

const (
	// maxFrame bounds a message, in bytes, and batch what records of one may take together, unless a single one has more.
	maxFrame = 1 << 20
	batch    = 256 << 10
)

// hello is what whoever connects says first, and all that it says.
type hello struct {
	Protocol int              `json:"protocol"`
	Node     string           `json:"node"`
	Have     map[string]Stamp `json:"have"`
}

// message is what it hears: whenever something changes, and every heartbeat.
type message struct {
	Protocol int        `json:"protocol"`
	Version  string     `json:"version"` // of the program
	Node     string     `json:"node"`
	Primary  bool       `json:"primary"`
	Now      time.Time  `json:"now"`
	Clock    uint64     `json:"clock"` // the highest count that the sender has seen
	Setup    Setup      `json:"setup"`
	Handover *handover  `json:"handover,omitempty"` // the sender, the primary, wants the other one to take over
	Ready    *readiness `json:"ready,omitempty"`    // of the sender, for what the other one has asked for
	Records  []Record   `json:"records,omitempty"`
	More     bool       `json:"more,omitempty"` // further records follow at once
}

// Setup is what has to be the same on both, for connections to mean the same.
type Setup struct {
	MarkMask uint32         `json:"mark_mask"`
	Uplinks  map[string]int `json:"uplinks"` // ids by name
	Moving   []string       `json:"moving"`  // uplinks that the primary alone has, in order of name
	LANs     map[string]int `json:"lans"`    // subnet ids by device
}

// writeFrame writes a value behind its length, four bytes in network order.
func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("a message of %d bytes is longer than %d", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

// readFrame reads one.
func readFrame(r io.Reader, v any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return fmt.Errorf("a message of %d bytes is longer than %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
