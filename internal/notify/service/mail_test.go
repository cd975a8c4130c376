package service

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// delivered is what a mail server took.
type delivered struct {
	user, from string
	to         []string
	text       string
}

// session is a session of the mail server (smtp.AuthSession): the password is right, from has to be the router's, and to is known.
type session struct {
	got  delivered
	mail chan delivered
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "router" || password != "right" {
			return smtp.ErrAuthFailed
		}
		s.got.user = user
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error { s.got.from = from; return nil }

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	switch {
	case strings.HasPrefix(to, "nobody@"):
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	case strings.HasPrefix(to, "grey@"):
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "come back later"}
	}
	s.got.to = append(s.got.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.got.text = string(text)
	s.mail <- s.got
	return err
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

// mailServer is an SMTP server with STARTTLS, TLS from the first byte, or none.
func mailServer(t *testing.T, kind string) (port int, got chan delivered) {
	t.Helper()
	got = make(chan delivered, 10)
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{mail: got}, nil }))
	server.Domain, server.AllowInsecureAuth = "mail.example.net", kind == "none"
	if kind != "none" {
		server.TLSConfig = tlsConfig()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() {
		defer close(done)
		if kind == "tls" {
			l = tls.NewListener(l, tlsConfig())
		}
		_ = server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return port, got
}

func TestMailIsDelivered(t *testing.T) {
	for kind, url := range map[string]string{
		"starttls": "smtp://router@127.0.0.1:%d/?from=router@example.net&to=me@example.net&to=you@example.net",
		"tls":      "smtps://router@127.0.0.1:%d/?from=router@example.net&to=me@example.net&to=you@example.net",
		"none":     "smtp://127.0.0.1:%d/?from=router@example.net&to=me@example.net&to=you@example.net&tls=off",
	} {
		t.Run(kind, func(t *testing.T) {
			port, got := mailServer(t, kind)
			if err := parse(t, fmt.Sprintf(url, port), "right").Send(t.Context(), message()); err != nil {
				t.Fatal(err)
			}
			d := <-got
			if d.from != "router@example.net" || strings.Join(d.to, " ") != "me@example.net you@example.net" || (d.user == "router") != (kind != "none") {
				t.Errorf("%+v", d)
			}
			m, err := mail.ReadMessage(strings.NewReader(d.text))
			if err != nil {
				t.Fatalf("%v\n%s", err, d.text)
			}
			body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
			if err != nil || !strings.Contains(string(body), "New traffic uses lte.") || m.Header.Get("Subject") != "fiber is down" ||
				m.Header.Get("Auto-Submitted") != "auto-generated" || m.Header.Get("Date") == "" {
				t.Errorf("%v\n%s", err, d.text)
			}
		})
	}
}

func TestRefusalsOfMailAreToldApart(t *testing.T) {
	for name, c := range map[string]struct {
		server, url, secret string
		refused             bool
	}{
		"a wrong password":                   {"starttls", "smtp://router@127.0.0.1:%d/?from=a@example.net&to=me@example.net", "wrong", true},
		"nobody of that name":                {"starttls", "smtp://127.0.0.1:%d/?from=a@example.net&to=nobody@example.net", "", true},
		"greylisting":                        {"starttls", "smtp://127.0.0.1:%d/?from=a@example.net&to=grey@example.net", "", false},
		"no encryption where it is demanded": {"none", "smtp://router@127.0.0.1:%d/?from=a@example.net&to=me@example.net", "right", false},
	} {
		t.Run(name, func(t *testing.T) {
			port, got := mailServer(t, c.server)
			err := parse(t, fmt.Sprintf(c.url, port), c.secret).Send(t.Context(), message())
			if _, refused := errors.AsType[*Refusal](err); err == nil || refused != c.refused {
				t.Errorf("refused %v: %v", refused, err)
			}
			if len(got) != 0 {
				t.Errorf("it was delivered all the same: %+v", <-got)
			}
		})
	}
}
