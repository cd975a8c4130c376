package main

import (
	"fmt"
	"os"
	"strings"
)

// axeRun is a script that runs axe-core's rules of WCAG 2.2 A and AA and its best practices, and returns what they are broken by.
const axeRun = `return axe.run(document, {resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(found => ({
	Passes: found.passes.length,
	Bad: found.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.target.join(" ") + ": " + n.any.concat(n.all, n.none).map(c => c.message).join("; "))),
}))`

// axe returns what axe-core finds besides [barriers]. "make axe" sets UPLINKD_AXE, the file of axe-core's text; without it there is no
// axe, and nothing is found.
func (b *browser) axe() []string {
	b.Helper()
	file := os.Getenv("UPLINKD_AXE")
	if file == "" {
		return nil
	}
	var loaded bool
	if b.script(&loaded, `return typeof axe === "object"`); !loaded {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		// Not as an element of the page, whose policy lets no script in.
		b.devtools("Runtime.evaluate", map[string]any{"expression": string(text)})
	}
	var found struct {
		Passes int
		Bad    []string
	}
	if b.script(&found, axeRun); found.Passes < 10 {
		b.Errorf("axe has looked at %d rules only", found.Passes)
	}
	return found.Bad
}

// axeFindsMistakes puts some into the page, and fails the test unless axe, where there is one, finds each.
func (b *browser) axeFindsMistakes() {
	b.Helper()
	b.script(nil, `const p = document.createElement("div"); p.id = "mistakes"; p.append("pale on pale", document.createElement("button")); p.style.color = "#ddd"; document.querySelector("main").append(p)`)
	found := strings.Join(b.axe(), "\n")
	b.script(nil, `document.getElementById("mistakes").remove()`)
	for _, rule := range []string{"color-contrast: ", "button-name: "} {
		if os.Getenv("UPLINKD_AXE") != "" && !strings.Contains(found, rule+"#mistakes") {
			b.Errorf("axe does not find %s: %s", rule, found)
		}
	}
}

// accessible fails the test for barriers.
func (b *browser) accessible(when string) {
	b.Helper()
	var bad []string
	b.script(&bad, barriers)
	for _, v := range b.axe() {
		bad = append(bad, fmt.Sprintf("axe: %s", v))
	}
	if len(bad) > 0 {
		b.Errorf("%s:\n%s", when, strings.Join(bad, "\n"))
	}
}
