package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

const mailExample = "smtp://user@mail.example.net:587/?from=router@example.net&to=me@example.net"

var mailOptions = []string{"from", "to", "tls"}

var (
	mailKind = kind{scheme: "smtp", example: mailExample,
		secret: "the password of the user", parse: parseMail, options: mailOptions}
	mailTLSKind = kind{scheme: "smtps", example: "smtps://user@mail.example.net/?from=router@example.net&to=me@example.net",
		secret: mailKind.secret, parse: parseMail, options: mailOptions}
)

// mailTimeout bounds each step of a delivery.
const mailTimeout = 30 * time.Second

// mailbox sends mail: by STARTTLS (RFC 3207), which must be there unless tls=off, or within TLS (smtps, RFC 8314).
type mailbox struct {
	host, port     string
	tls            mailTLS
	user, password string
	from           string
	to             []string
}

// mailTLS says when encryption begins.
type mailTLS int

const (
	startTLS mailTLS = iota
	directTLS
	noTLS
)

func parseMail(u *url.URL, secret string) (Service, error) {
	query := u.Query()
	b := &mailbox{host: u.Hostname(), from: query.Get("from"), to: query["to"], user: u.User.Username(), password: secret}
	if !isAddress(b.from) {
		return nil, fmt.Errorf("there is no sender: write it as in %s", mailExample)
	}
	if len(b.to) == 0 {
		return nil, fmt.Errorf("nobody is to get the mail: write it as in %s", mailExample)
	}
	for _, to := range b.to {
		if !isAddress(to) {
			return nil, fmt.Errorf("to=%s is not an address of mail", to)
		}
	}
	switch tls := query.Get("tls"); {
	case tls != "" && tls != "on" && tls != "off":
		return nil, errors.New("tls is on or off")
	case u.Scheme == "smtps" && tls == "off":
		return nil, errors.New("smtps is TLS from the first byte: write smtp:// where there is none")
	case u.Scheme == "smtps":
		b.tls, b.port = directTLS, "465"
	case tls == "off":
		b.tls, b.port = noTLS, "25"
	default:
		b.tls, b.port = startTLS, "587"
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("%s is not a port", p)
		}
		b.port = p
	}
	return b, nil
}

// isAddress accepts an address of mail without a name beside it (RFC 5322 section 3.4.1).
func isAddress(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s
}

func (b *mailbox) Send(ctx context.Context, m Message) error {
	err := b.send(ctx, m)
	if answer, ok := errors.AsType[*smtp.SMTPError](err); ok && !answer.Temporary() {
		return &Refusal{Reason: err.Error()}
	}
	return err
}

func (b *mailbox) send(ctx context.Context, m Message) error {
	conn, err := (&net.Dialer{Timeout: mailTimeout}).DialContext(ctx, "tcp", net.JoinHostPort(b.host, b.port))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it was closed before, or there is another error
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // of a connection that is gone, which is seen soon enough
	}
	config := &tls.Config{ServerName: b.host}
	var client *smtp.Client
	switch b.tls {
	case startTLS:
		if client, err = smtp.NewClientStartTLS(conn, config); err != nil {
			return err
		}
	case directTLS:
		client = smtp.NewClient(tls.Client(conn, config))
	case noTLS:
		client = smtp.NewClient(conn)
	}
	client.CommandTimeout, client.SubmissionTimeout = mailTimeout, mailTimeout
	if b.user != "" {
		if err := client.Auth(sasl.NewPlainClient("", b.user, b.password)); err != nil {
			return fmt.Errorf("logging in: %w", err)
		}
	}
	if err := client.SendMail(b.from, b.to, bytes.NewReader(b.compose(m))); err != nil {
		return err
	}
	_ = client.Quit() // it has been taken
	return nil
}

// compose writes a message in plain text (RFC 5322, RFC 2045).
func (b *mailbox) compose(m Message) []byte {
	var text bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&text, "%s: %s\r\n", name, value) }
	header("From", "<"+b.from+">")
	header("To", "<"+strings.Join(b.to, ">, <")+">")
	header("Subject", mime.QEncoding.Encode("utf-8", m.Title))
	header("Date", m.Time.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	_, domain, _ := strings.Cut(b.from, "@")
	header("Message-ID", "<"+m.ID+"@"+domain+">")
	header("Auto-Submitted", "auto-generated") // RFC 3834: nobody answers it
	if m.Priority == Critical {
		header("Importance", "high")
	}
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	text.WriteString("\r\n")
	body := quotedprintable.NewWriter(&text)
	_, _ = body.Write([]byte(m.Text + "\r\n")) // a buffer takes everything
	_ = body.Close()
	return text.Bytes()
}

func (*mailbox) Close() {}
