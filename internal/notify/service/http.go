package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// httpTimeout bounds one try.
	httpTimeout = 20 * time.Second
	// answerLimit is how many bytes of an answer are read: it is shown to whoever looks for the mistake.
	answerLimit = 512
)

// httpClient follows no redirection, which would give secrets to somebody else, and keeps no connection, which would be bound to the
// uplink that has just died.
var httpClient = &http.Client{
	Timeout:       httpTimeout,
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// post sends a body, and sorts the answers: 2xx is a success; 408, 429 and 5xx may be better later; 400, 413, 415 and 422 mean the message;
// and what is left, 401, 403, 404 and redirections among it, means the address or the secret.
func post(ctx context.Context, u *url.URL, header http.Header, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return &Refusal{Reason: err.Error(), Message: true}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(text))
	if err != nil {
		return &Refusal{Reason: "this is not an address that can be asked"}
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "uplinkd")
	resp, err := httpClient.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // it repeats the URL, which may hold a secret
			err = wrapped.Err
		}
		return err
	}
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, answerLimit)) // it is only told
	_ = resp.Body.Close()
	failure := "it answered " + resp.Status
	if said := strings.Join(strings.Fields(strings.ToValidUTF8(string(answer), "")), " "); said != "" {
		failure += ": " + said
	}
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return errors.New(failure)
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnsupportedMediaType, code == http.StatusUnprocessableEntity:
		return &Refusal{Reason: failure, Message: true}
	default:
		return &Refusal{Reason: failure}
	}
}
