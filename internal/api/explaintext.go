package api

import (
	"fmt"
	"io"
	"strings"

	"github.com/uplinkd/uplinkd/rules/explain"
)

// ExplainOptions say how to write an explanation.
type ExplainOptions struct {
	Color bool // with the escape sequences of a terminal
	All   bool // with the rules and routes that were passed over
}

// WriteExplanation writes e for people: what was asked, the steps that counted with the line of the
// configuration that made each, the outcome, and whether the kernel says the same.
func WriteExplanation(w io.Writer, e Explanation, opt ExplainOptions) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", paint(packetText(&e.Packet), colorBold, opt.Color))
	if e.Without != "" {
		fmt.Fprintf(&b, "as if the cable of %s were pulled\n", clean(e.Without))
	}
	b.WriteByte('\n')
	for _, s := range e.Steps {
		if s.Counts || opt.All {
			writeStep(&b, &e, s, opt.Color)
		}
	}
	b.WriteByte('\n')
	color := colorGreen
	if e.Outcome == explain.Refused || e.Outcome == explain.Filtered {
		color = colorRed
	}
	fmt.Fprintf(&b, "%s: %s\n", paint(outcomeText(e.Outcome), color, opt.Color), clean(e.Reason))
	if e.Outcome == explain.Leaves {
		for _, egress := range e.Egresses {
			b.WriteString("  by " + egressText(egress) + "\n")
		}
		if e.Choice != "" {
			b.WriteString("  " + clean(e.Choice) + "\n")
		}
	}
	if e.Uncertain != "" {
		fmt.Fprintf(&b, "%s: %s\n", paint("not certain", colorYellow, opt.Color), clean(e.Uncertain))
	}
	if e.Without == "" {
		writeKernel(&b, &e.Kernel, opt.Color)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func packetText(p *ExplainedPacket) string {
	text := p.Protocol + " to " + p.To.String()
	if p.DPort != 0 {
		text += fmt.Sprintf(" port %d", p.DPort)
	}
	if p.From.IsValid() {
		text += " from " + p.From.String()
	}
	if p.SPort != 0 {
		text += fmt.Sprintf(" port %d", p.SPort)
	}
	if p.IIF != "" {
		text += ", in by " + clean(p.IIF)
		if p.MAC != "" {
			text += " from host " + p.MAC
		}
	} else {
		text += ", made by this machine"
	}
	if p.OIF != "" {
		text += ", bound to " + clean(p.OIF)
	}
	if p.Mark != 0 {
		text += ", mark " + p.Mark.String()
	}
	return text
}

func writeStep(b *strings.Builder, e *Explanation, s Step, color bool) {
	mark, tint := "->", colorNone
	if !s.Counts {
		mark, tint = "  ", colorDim
	}
	fmt.Fprintf(b, "%s %-6s %s\n", mark, s.Kind, paint(clean(s.What), tint, color))
	fmt.Fprintf(b, "          %s", paint(clean(s.Why), tint, color))
	if at := madeBy(e, s); at != "" {
		b.WriteString(paint("  ["+at+"]", colorDim, color))
	}
	b.WriteByte('\n')
}

// madeBy names what in the configuration made a step.
func madeBy(e *Explanation, s Step) string {
	what := s.Key
	if s.Uplink != "" {
		what = "uplink " + s.Uplink + ", " + s.Key
	}
	if s.Line == 0 || e.File == "" {
		return clean(what)
	}
	return clean(fmt.Sprintf("%s:%d: %s", e.File, s.Line, what))
}

func outcomeText(o explain.Outcome) string {
	switch o {
	case explain.Leaves:
		return "it leaves"
	case explain.Delivered:
		return "it is for this machine"
	case explain.Filtered:
		return "it is dropped on the way out"
	}
	return "it goes nowhere"
}

func egressText(e Egress) string {
	text := "device " + clean(e.Device)
	if e.Uplink != "" {
		text = clean(e.Uplink) + " (" + clean(e.Device) + ")"
	}
	if e.Gateway.IsValid() {
		text += " via " + e.Gateway.String()
	}
	if e.Source.IsValid() {
		text += ", source " + e.Source.String()
	}
	if e.Weight > 1 {
		text += fmt.Sprintf(", weight %d", e.Weight)
	}
	return text
}

func writeKernel(b *strings.Builder, k *KernelAnswer, color bool) {
	if !k.Asked {
		b.WriteString("the kernel cannot be asked about such a packet\n")
		return
	}
	said := "local"
	switch {
	case k.Refused != "":
		said = k.Refused
	case !k.Local:
		said = egressText(Egress{Device: k.Device, Gateway: k.Gateway, Source: k.Source})
	}
	if k.Agrees {
		fmt.Fprintf(b, "%s: %s\n", paint("the kernel says the same", colorGreen, color), clean(said))
		return
	}
	fmt.Fprintf(b, "%s: %s\n", paint("the kernel's own answer differs (please report this)", colorRed, color), clean(said))
}
