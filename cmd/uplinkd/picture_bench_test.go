package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"text/template"
	"time"
)

// pictureEnv is the file that BenchmarkPeers draws its breaks into, as SVG.
const pictureEnv = "UPLINKD_PICTURE"

// panel is a part of the picture: one kind of break, and for each program how long new flows stood still at each.
type panel struct {
	kind     string // of break, as lab has it
	title    string
	programs []string
	stalls   []distribution
}

func (p *panel) add(program string, stalls distribution) {
	p.programs, p.stalls = append(p.programs, program), append(p.stalls, stalls)
}

// Measures of the picture, in pixels.
const (
	plotLeft, plotWidth = 190, 500
	rowHeight           = 26
	headHeight          = 40
	footHeight          = 34
)

var pictureTemplate = template.Must(template.New("").Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{{.Height}}" viewBox="0 0 720 {{.Height}}" font-family="sans-serif" font-size="13">
<style>text { fill: #333 } line { stroke: #bbb } .median { stroke: #333; stroke-width: 2 } circle { fill: #06c; fill-opacity: .55 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } line { stroke: #555 } .median { stroke: #ddd } circle { fill: #6bf } }</style>
{{range .Texts}}<text x="{{.X}}" y="{{.Y}}"{{with .Anchor}} text-anchor="{{.}}"{{end}}{{if .Title}} font-weight="bold"{{end}}>{{html .Text}}</text>
{{end}}{{range .Lines}}<line x1="{{.X}}" x2="{{.X}}" y1="{{.Y1}}" y2="{{.Y2}}"{{if .Median}} class="median"{{end}}/>
{{end}}{{range .Dots}}<circle cx="{{.X}}" cy="{{.Y}}" r="4"/>
{{end}}</svg>
`))

// draw makes the picture: a dot for each break, and a bar at the median, on an axis of decades from a millisecond on, which is also
// what is shorter.
func draw(panels ...panel) ([]byte, error) {
	type text struct {
		X, Y         int
		Anchor, Text string
		Title        bool
	}
	type line struct {
		X, Y1, Y2 int
		Median    bool
	}
	type dot struct{ X, Y int }
	var page struct {
		Height int
		Texts  []text
		Lines  []line
		Dots   []dot
	}
	for _, p := range panels {
		if len(p.stalls) == 0 {
			continue // it was not asked for
		}
		decades := 1
		for time.Millisecond*time.Duration(math.Pow10(decades)) < slices.Max(slices.Concat(p.stalls...)) {
			decades++
		}
		at := func(v time.Duration) int {
			return plotLeft + int(plotWidth*math.Log10(max(1, float64(v)/float64(time.Millisecond)))/float64(decades))
		}
		page.Texts = append(page.Texts, text{X: 10, Y: page.Height + 24, Text: p.title, Title: true})
		top := page.Height + headHeight
		bottom := top + rowHeight*len(p.programs)
		for n := range decades + 1 {
			v := time.Millisecond * time.Duration(math.Pow10(n))
			page.Lines = append(page.Lines, line{X: at(v), Y1: top, Y2: bottom})
			page.Texts = append(page.Texts, text{X: at(v), Y: bottom + 16, Anchor: "middle", Text: axisLabel(v)})
		}
		for i, program := range p.programs {
			middle := top + rowHeight*i + rowHeight/2
			page.Texts = append(page.Texts, text{X: plotLeft - 10, Y: middle + 4, Anchor: "end", Text: program})
			for _, v := range p.stalls[i] {
				page.Dots = append(page.Dots, dot{at(v), middle})
			}
			page.Lines = append(page.Lines, line{X: at(p.stalls[i].median()), Y1: middle - 9, Y2: middle + 9, Median: true})
		}
		page.Height = bottom + footHeight
	}
	var b bytes.Buffer
	err := pictureTemplate.Execute(&b, page)
	return b.Bytes(), err
}

func axisLabel(v time.Duration) string {
	if v < time.Second {
		return fmt.Sprintf("%d ms", v.Milliseconds())
	}
	return fmt.Sprintf("%d s", v/time.Second)
}

// What the picture shows is where it belongs.
func TestThePictureHasEachBreakInItsPlace(t *testing.T) {
	out, err := draw(
		panel{title: "far", programs: []string{"a", "b <c>"}, stalls: []distribution{{10 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond}, {10 * time.Second}}},
		panel{title: "not asked for"},
		panel{title: "near", programs: []string{"a"}, stalls: []distribution{{0}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<circle cx="315" cy="53" r="4"/>`, `<circle cx="690" cy="79" r="4"/>`, `<circle cx="190" cy="179" r="4"/>`, `x1="440" x2="440" y1="44" y2="62" class="median"`, "b &lt;c&gt;", ">100 ms<", ">10 s<", "height=\"226\""} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}
