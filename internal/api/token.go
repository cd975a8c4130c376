package api

import (
	"fmt"

	"github.com/uplinkd/uplinkd/internal/secret"
)

// ReadToken reads the token for changes over TCP, which nobody else may read; without a file there is none.
func ReadToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	token, err := secret.Read("token_file", file)
	if err != nil {
		return "", err
	}
	if len(token) < 16 {
		return "", fmt.Errorf("token_file %s holds %d characters, at least 16 are needed", file, len(token))
	}
	return token, nil
}
