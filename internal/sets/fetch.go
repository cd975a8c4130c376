package sets

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/uplinkd/uplinkd/rules/inet"
)

const (
	fetchTimeout = 2 * time.Minute // for all of a list: 32 MiB by a slow line
	// retryMin and retryMax bound the pause before a list is asked for again that could not be had. It doubles.
	retryMin, retryMax = 10 * time.Second, time.Hour
	maxRedirects       = 5
)

// fetchState is what is known of the URL of a set.
type fetchState struct {
	etag, modified string // of the content, as the server named it
	running        bool
	failed         int       // times in a row
	next           time.Time // when it is asked again after a failure
}

// newClient asks by the machine's own default, which leads by an uplink that works.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // the next request is tomorrow's, maybe by another uplink
	return &http.Client{Transport: transport, Timeout: fetchTimeout}
}

// fetchDue reports whether the URL of a set is to be asked, and then says that it is.
func (e *Engine) fetchDue(s *set, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.fetch.running || now.Before(s.fetch.next) || s.fetch.failed == 0 && !s.loaded.IsZero() && now.Sub(s.loaded) < s.Refresh && !now.Before(s.loaded) {
		return false
	}
	s.fetch.running = true
	return true
}

// refresh asks for the list of a set.
func (e *Engine) refresh(ctx context.Context, s *set) {
	e.mu.Lock()
	etag, modified := s.fetch.etag, s.fetch.modified
	if s.content == nil {
		etag, modified = "", ""
	}
	e.mu.Unlock()
	content, answer, err := fetch(ctx, e.o.Client, s.URL, etag, modified)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	e.mu.Lock()
	s.fetch.running = false
	if err != nil {
		pause := retryMax
		if s.fetch.failed < 16 {
			pause = min(retryMin<<s.fetch.failed, retryMax)
		}
		s.fetch.failed, s.fetch.next = s.fetch.failed+1, now.Add(pause)
	} else {
		s.fetch.failed, s.fetch.next = 0, time.Time{}
		s.fetch.etag, s.fetch.modified = answer.etag, answer.modified
	}
	same := err == nil && content == nil
	if same {
		content = s.content
	}
	unchanged := same || content != nil && s.content != nil && content.Equal(s.content)
	e.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("%s: %w", s.URL, err)
	}
	e.take(s, content, err, now)
	if err == nil && unchanged {
		e.save(s) // it is as good as new
	}
}

type answered struct{ etag, modified string }

// fetch returns the list behind a URL, nil when it is still the one that the tags name.
func fetch(ctx context.Context, client *http.Client, from, etag, modified string) (*inet.Set, answered, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, answered{}, err
	}
	request.Header.Set("User-Agent", "uplinkd")
	request.Header.Set("Accept", "text/plain, */*;q=0.1")
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	if modified != "" {
		request.Header.Set("If-Modified-Since", modified)
	}
	secure := *client
	secure.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		switch {
		case to.URL.Scheme != "https":
			return fmt.Errorf("it leads to %s, which could be altered on the way", to.URL.Redacted())
		case len(via) > maxRedirects:
			return errors.New("it leads on and on")
		}
		return nil
	}
	response, err := secure.Do(request)
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err // the URL is named by the caller
	}
	if err != nil {
		return nil, answered{}, err
	}
	defer response.Body.Close()
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case response.StatusCode == http.StatusNotModified && etag+modified != "":
		return nil, answered{etag, modified}, nil
	case response.StatusCode != http.StatusOK:
		return nil, answered{}, fmt.Errorf("the server answers %s", response.Status)
	case kind == "text/html" || kind == "application/xhtml+xml":
		return nil, answered{}, errors.New("a web page comes in the place of the list")
	case response.ContentLength > maxBytes:
		return nil, answered{}, fmt.Errorf("it has %d bytes, and %d is the most", response.ContentLength, maxBytes)
	}
	content, err := parse(response.Body)
	return content, answered{response.Header.Get("ETag"), response.Header.Get("Last-Modified")}, err
}
