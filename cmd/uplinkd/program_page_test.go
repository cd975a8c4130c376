package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/programs"
)

// madeByScenes begins the part of docs/programs.md that is made of internal/programs and of what the scenes recorded.
const (
	programsPage = "../../docs/programs.md"
	madeByScenes = "<!-- Made by the scenes: UPLINKD_RECORD=1 make field -->\n"
)

// recordedScenes are the figures of all scenes, by program; those with a setup of their own come last.
func recordedScenes(t *testing.T) map[string][]seen {
	t.Helper()
	files, err := filepath.Glob(recorded + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]seen)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s seen
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[s.Program] = append(all[s.Program], s)
	}
	for _, list := range all {
		slices.SortFunc(list, func(a, b seen) int { return cmp.Compare(a.Setup, b.Setup) })
	}
	return all
}

// programTables are the tables of docs/programs.md.
func programTables(scenes map[string][]seen) string {
	var b strings.Builder
	b.WriteString("\n## What must be known\n\n| program | it | uplinkd | you write |\n| --- | --- | --- | --- |\n")
	kernels := make(map[string]bool)
	for _, p := range programs.Known() {
		if p.Does == "" {
			continue
		}
		write := cmp.Or(p.Write, "nothing")
		if p.Check != "" {
			write += " (`" + p.Check + "`)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p.Name, p.Does, cmp.Or(p.Answer, "nothing"), write)
		for _, s := range scenes[p.Name] {
			kernels[s.Kernel] = true
		}
	}
	fmt.Fprintf(&b, "\nThe name in brackets is the check of doctor, or the problem in `status`, that tells you when it is not written.\n\n## What was seen\n\nOn Linux %s. "+
		"No new flow of a LAN host succeeded for so long when the first line died without a word, and when it was back; in the slower\nfamily, a new one every 10 ms. "+
		"Of 200 packets a second and family so many were lost while uplinkd was killed and started, and while the\nprogram was.\n\n"+
		"| program | version | line dies | line is back | uplinkd killed | program started again |\n| --- | --- | --- | --- | --- | --- |\n", strings.Join(slices.Sorted(maps.Keys(kernels)), ", "))
	for _, p := range programs.Known() {
		for _, s := range scenes[p.Name] {
			fmt.Fprintf(&b, "| %s | %s | %d ms | %d ms | %d lost | %d of %d lost |\n", s.name(), s.Version, s.FailoverMS, s.ReturnMS, s.KilledLost, s.RestartLost, s.RestartSends)
		}
	}
	return b.String()
}

// pageMu is held while a scene writes the page.
var pageMu sync.Mutex

// writeProgramsPage makes the tables of docs/programs.md anew where UPLINKD_RECORD is set, and compares them otherwise.
func writeProgramsPage(t *testing.T, scenes map[string][]seen) {
	t.Helper()
	text, err := os.ReadFile(programsPage)
	if err != nil {
		t.Fatal(err)
	}
	prose, tables, ok := strings.Cut(string(text), madeByScenes)
	if !ok {
		t.Fatalf("%s has no line %q", programsPage, madeByScenes)
	}
	want := programTables(scenes)
	switch {
	case os.Getenv("UPLINKD_RECORD") != "":
		if err := os.WriteFile(programsPage, []byte(prose+madeByScenes+want), 0o644); err != nil {
			t.Fatal(err)
		}
	case tables != want:
		t.Errorf("%s is not what internal/programs and %s say: UPLINKD_RECORD=1 go test -run ThePageOfPrograms ./cmd/uplinkd", programsPage, recorded)
	}
}

func TestThePageOfProgramsIsWhatTheScenesSaw(t *testing.T) {
	scenes := recordedScenes(t)
	writeProgramsPage(t, scenes)
	problems, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs.Known() {
		_, played := scenes[p.Name]
		delete(scenes, p.Name)
		if played != (p.Does != "") {
			t.Errorf("%s has a row that says what it does: %v; a scene that was recorded: %v", p.Name, p.Does != "", played)
		}
		if p.Check != "" && !slices.Contains(doctor.Names(), p.Check) && !strings.Contains(string(problems), "`"+p.Check+"`") {
			t.Errorf("%s: nothing is called %s", p.Name, p.Check)
		}
	}
	for name := range scenes {
		t.Errorf("a scene was recorded of %s, which internal/programs does not know", name)
	}
}
