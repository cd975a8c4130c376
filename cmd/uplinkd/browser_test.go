package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// browser is a headless Chromium on a host of the world, driven over the WebDriver protocol (W3C) of its
// chromedriver.
type browser struct {
	testing.TB
	http    *http.Client
	session string // URL
}

const driverAddress = "127.0.0.1:9515"

// newBrowser starts a browser that ends with the test. Its profile is fresh and it asks nobody for updates.
func newBrowser(t testing.TB, h *lab.Host) *browser {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	if err != nil {
		t.Fatal("the Debian packages chromium and chromium-driver are needed: run make deps")
	}
	profile := t.TempDir()
	cmd := h.Command(context.Background(), driver, "--port=9515", "--silent")
	cmd.Env = append(os.Environ(), "HOME="+profile, "XDG_CONFIG_HOME="+profile, "XDG_CACHE_HOME="+profile)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{TB: t, http: &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return h.Dial(ctx, network, "", address)
		},
	}}}
	t.Cleanup(func() {
		if b.session != "" {
			_, _ = b.call("DELETE", "", nil)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b.session = "http://" + driverAddress
	if err := lab.Until(ctx, "chromedriver", func() error { _, err := b.call("GET", "/status", nil); return err }); err != nil {
		t.Fatal(err)
	}
	args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + filepath.Join(profile, "profile")}
	answer := b.must("POST", "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "goog:chromeOptions": map[string]any{"args": args}}}})
	var made struct{ SessionID string }
	if err := json.Unmarshal(answer, &made); err != nil {
		t.Fatal(err)
	}
	b.session += "/session/" + made.SessionID
	return b
}

// call sends one command and returns the value of its answer.
func (b *browser) call(method, path string, body any) (json.RawMessage, error) {
	var data bytes.Buffer
	if body != nil { // chromedriver refuses a GET that has one
		if err := json.NewEncoder(&data).Encode(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequest(method, b.session+path, &data)
	if err != nil {
		return nil, err
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct{ Value json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer.Value)
	}
	return answer.Value, nil
}

func (b *browser) must(method, path string, body any) json.RawMessage {
	b.Helper()
	value, err := b.call(method, path, body)
	if err != nil {
		b.Fatal(err)
	}
	return value
}

func (b *browser) open(url string) { b.Helper(); b.must("POST", "/url", map[string]string{"url": url}) }

// script runs JavaScript in the page and reads what it returns into result.
func (b *browser) script(result any, code string, args ...any) {
	b.Helper()
	if args == nil {
		args = []any{}
	}
	value := b.must("POST", "/execute/sync", map[string]any{"script": code, "args": args})
	if result == nil {
		return
	}
	if err := json.Unmarshal(value, result); err != nil {
		b.Fatalf("%s returned %s: %v", code, value, err)
	}
}

// devtools sends a command that WebDriver has no word for.
func (b *browser) devtools(command string, params map[string]any) json.RawMessage {
	b.Helper()
	return b.must("POST", "/goog/cdp/execute", map[string]any{"cmd": command, "params": params})
}

// element finds the first element that a CSS selector matches.
func (b *browser) element(selector string) string {
	b.Helper()
	var found map[string]string
	if err := json.Unmarshal(b.must("POST", "/element", map[string]string{"using": "css selector", "value": selector}), &found); err != nil {
		b.Fatal(err)
	}
	for _, id := range found {
		return "/element/" + id
	}
	b.Fatalf("no element %s", selector)
	return ""
}

// click presses what a person would press: it must be visible and not covered.
func (b *browser) click(selector string) {
	b.Helper()
	b.must("POST", b.element(selector)+"/click", map[string]any{})
}

func (b *browser) keys(selector, text string) {
	b.Helper()
	b.must("POST", b.element(selector)+"/value", map[string]string{"text": text})
}

func (b *browser) text(selector string) string {
	b.Helper()
	var text string
	b.script(&text, "const e = document.querySelector(arguments[0]); return e ? e.textContent : ''", selector)
	return text
}

// await waits until a script returns true.
func (b *browser) await(what, code string, args ...any) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := lab.Until(ctx, what, func() error {
		var ok bool
		b.script(&ok, code, args...)
		if !ok {
			return fmt.Errorf("the page says %.300q", b.text("main"))
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// setViewport sets the width of the window in CSS pixels and the colour scheme.
func (b *browser) setViewport(width, height int, scheme string) {
	b.Helper()
	b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
	b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
}

// picture returns a PNG of the whole page.
func (b *browser) picture() []byte {
	b.Helper()
	var shot struct{ Data string }
	if err := json.Unmarshal(b.devtools("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}), &shot); err != nil {
		b.Fatal(err)
	}
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.Fatal(err)
	}
	return png
}

// faultless fails the test when the page has logged an error: a refused script, an exception.
func (b *browser) faultless() {
	b.Helper()
	var entries []struct{ Level, Message string }
	if err := json.Unmarshal(b.must("POST", "/se/log", map[string]string{"type": "browser"}), &entries); err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		if e.Level == "SEVERE" {
			b.Errorf("the page logged: %s", e.Message)
		}
	}
}
