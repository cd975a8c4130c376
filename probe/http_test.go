package probe

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// answering plays a server that says something and then nothing more, with the connection open.
func answering(t *testing.T, says string) (status int, err error) {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		_, _ = server.Read(make([]byte, 4096))
		_, _ = io.WriteString(server, says)
	}()
	target, err := ParseTarget("http://192.0.2.1/")
	if err != nil {
		t.Fatal(err)
	}
	return get(client, target)
}

// A server that goes on, or goes silent, behind its status line keeps nobody waiting: a read of what never comes would
// hang this test.
func TestAnHTTPAnswerEndsWithItsStatusLine(t *testing.T) {
	for name, c := range map[string]struct {
		says   string
		status int
	}{
		"a head that stops":            {"HTTP/1.1 200 OK\r\nServ", 200},
		"a body that is stuck":         {"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", 200},
		"chunks that stop":             {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", 200},
		"no reason":                    {"HTTP/1.1 204\r\n", 204},
		"an old server":                {"HTTP/1.0 301 Moved\n", 301},
		"an interim answer":            {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 500 No\r\n", 500},
		"a change of protocol":         {"HTTP/1.1 101 Switching Protocols\r\n", 101},
		"headers that nobody can read": {"HTTP/1.1 200 OK\r\n\x00\xff: \x1b[31m\r\n\r\n", 200},
	} {
		if status, err := answering(t, c.says); err != nil || status != c.status {
			t.Errorf("%s: %d, %v", name, status, err)
		}
	}
}

func TestWhatIsNoHTTPIsAnError(t *testing.T) {
	for name, says := range map[string]string{
		"another protocol":       "220 mail.example.net ESMTP\r\n",
		"no number":              "HTTP/1.1 OK\r\n",
		"too small a number":     "HTTP/1.1 099 What\r\n",
		"too long a number":      "HTTP/1.1 2000 What\r\n",
		"an unknown version":     "HTTP/x 200 OK\r\n",
		"nothing but a new line": "\r\n",
	} {
		if status, err := answering(t, says); err == nil {
			t.Errorf("%s: status %d", name, status)
		}
	}
}

// Interim answers without end are bounded by their bytes.
func TestInterimAnswersWithoutEndAreGivenUp(t *testing.T) {
	if _, err := answering(t, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", maxHead)); err == nil || errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}
