package hooks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

const (
	// postTimeout bounds one try, and retryWindow all of them for one event: an event of an outage can leave only
	// when the outage is over.
	postTimeout          = 15 * time.Second
	retryWindow          = 10 * time.Minute
	firstPause, maxPause = time.Second, time.Minute
	answerLimit          = 4 << 10 // bytes of an answer that are read
)

// Webhook posts events to a URL, in their order.
type Webhook struct {
	URL       string
	Transport http.RoundTripper // http.DefaultTransport's like when nil
	Log       *slog.Logger
}

// Run posts every event until the events end. Answers of 2xx are what is hoped for; 408, 429, 5xx and silence
// are tried again, twice as long after each time, for ten minutes; any other answer is final.
func (w *Webhook) Run(ctx context.Context, events iter.Seq[Event]) error {
	client := &http.Client{Transport: w.Transport, Timeout: postTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if w.Transport == nil {
		// A connection that is kept would be bound to the uplink that has just died.
		client.Transport = &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	}
	for e := range events {
		if err := w.deliver(ctx, client, e); err != nil && ctx.Err() == nil {
			w.Log.Warn("webhook was not delivered", "event", e.ID, "err", err)
		}
	}
	return nil
}

func (w *Webhook) deliver(ctx context.Context, client *http.Client, e Event) error {
	deadline := time.Now().Add(retryWindow)
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		again, err := w.post(ctx, client, e)
		if err == nil || !again {
			return err
		}
		if time.Now().Add(pause).After(deadline) {
			return fmt.Errorf("given up after %v: %w", retryWindow, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// post tries once, and says whether it is worth another try.
func (w *Webhook) post(ctx context.Context, client *http.Client, e Event) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(e.JSON))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "uplinkd")
	// The same for every try, so that the receiver can tell a repetition from another event.
	req.Header.Set("Idempotency-Key", e.ID)
	resp, err := client.Do(req)
	if err != nil {
		return true, withoutURL(err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, answerLimit)) // what it says does not matter
	_ = resp.Body.Close()
	switch code := resp.StatusCode; {
	case code < 300:
		return false, nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return true, fmt.Errorf("it answered %s", resp.Status)
	default:
		return false, fmt.Errorf("it answered %s", resp.Status)
	}
}

// withoutURL leaves out the URL, which may hold a secret, of what goes into the log.
func withoutURL(err error) error {
	if wrapped, ok := err.(*url.Error); ok {
		return wrapped.Err
	}
	return err
}
