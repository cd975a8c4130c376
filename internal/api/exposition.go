package api

import (
	"bytes"
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// expositionType is the text format of Prometheus, which every server of it reads. Writing it takes this file;
// the library that would do so brings protocol buffers along, and with them a sixth of the program's size.
const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// exposition is metrics in that format.
type exposition struct{ bytes.Buffer }

// family begins the samples of a name.
func (e *exposition) family(name, kind, help string) {
	e.WriteString("# HELP " + name + " " + strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(help) + "\n# TYPE " + name + " " + kind + "\n")
}

// sample writes one line; labels are names and values in turn.
func (e *exposition) sample(name string, value float64, labels ...string) {
	e.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		separator := ","
		if i == 0 {
			separator = "{"
		}
		e.WriteString(separator + labels[i] + `="`)
		e.WriteString(escapeLabel(labels[i+1]))
		e.WriteByte('"')
	}
	if len(labels) > 0 {
		e.WriteByte('}')
	}
	e.WriteByte(' ')
	e.Write(strconv.AppendFloat(e.AvailableBuffer(), value, 'g', -1, 64))
	e.WriteByte('\n')
}

// escapeLabel writes a label's value; what is no UTF-8 would spoil the whole scrape.
func escapeLabel(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "\uFFFD"))
}

// histogram writes one histogram; its buckets count up.
func (e *exposition) histogram(name string, h *histogram, labels ...string) {
	sum := uint64(0)
	for i, n := range h.counts {
		sum += n
		bound := "+Inf"
		if i < len(h.bounds) {
			bound = strconv.FormatFloat(h.bounds[i], 'g', -1, 64)
		}
		e.sample(name+"_bucket", float64(sum), append(append([]string(nil), labels...), "le", bound)...)
	}
	e.sample(name+"_sum", h.sum, labels...)
	e.sample(name+"_count", float64(sum), labels...)
}

// histogram counts durations by bounds in seconds.
type histogram struct {
	bounds []float64
	counts []uint64 // one more, for what is above all bounds
	sum    float64
}

func newHistogram(bounds []float64) *histogram {
	return &histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	h.sum += s
	for i, bound := range h.bounds {
		if s <= bound {
			h.counts[i]++
			return
		}
	}
	h.counts[len(h.bounds)]++
}

// runtime writes what Go's own dashboards look for first.
func (e *exposition) runtime() {
	list := []struct{ name, kind, help, source string }{
		{"go_gc_cycles_total", "counter", "Garbage collections.", "/gc/cycles/total:gc-cycles"},
		{"go_goroutines", "gauge", "Goroutines that there are.", "/sched/goroutines:goroutines"},
		{"go_memstats_alloc_bytes", "gauge", "Bytes of living objects, and of dead ones not swept yet.", "/memory/classes/heap/objects:bytes"},
		{"go_memstats_sys_bytes", "gauge", "Bytes got from the operating system.", "/memory/classes/total:bytes"},
	}
	samples := make([]metrics.Sample, len(list))
	for i := range list {
		samples[i].Name = list[i].source
	}
	metrics.Read(samples)
	for i, x := range list {
		if samples[i].Value.Kind() == metrics.KindUint64 {
			e.family(x.name, x.kind, x.help)
			e.sample(x.name, float64(samples[i].Value.Uint64()))
		}
	}
}

// process writes what Linux tells of this process.
func (e *exposition) process(started time.Time) {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) == nil {
		e.family("process_cpu_seconds_total", "counter", "Seconds of processor time, for the program and for the kernel on its behalf.")
		e.sample("process_cpu_seconds_total", time.Duration(used.Utime.Nano()+used.Stime.Nano()).Seconds())
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		e.family("process_open_fds", "gauge", "Open file descriptors.")
		e.sample("process_open_fds", float64(len(open)))
	}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		// proc(5): the second number is the resident set in pages.
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			if pages, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
				e.family("process_resident_memory_bytes", "gauge", "Bytes of memory that are in RAM.")
				e.sample("process_resident_memory_bytes", float64(pages)*float64(os.Getpagesize()))
			}
		}
	}
	e.family("process_start_time_seconds", "gauge", "When the daemon began, in seconds since 1970.")
	e.sample("process_start_time_seconds", float64(started.UnixMilli())/1000)
}
