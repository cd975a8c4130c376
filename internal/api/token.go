package api

import (
	"fmt"
	"os"
	"strings"
)

// ReadToken reads the token for changes over TCP, which nobody else may read; without a file there is none.
func ReadToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("reading token_file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("token_file %s is no regular file", file)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("others may read token_file %s (mode %#o), so it is not used: chmod 600 %s, and put another token there", file, mode, file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading token_file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 16 {
		return "", fmt.Errorf("token_file %s holds %d characters, at least 16 are needed", file, len(token))
	}
	return token, nil
}
