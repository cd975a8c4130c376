package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// sbin is where Debian keeps nft and where an ordinary user's PATH does not look.
var sbin = [...]string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// searchPath returns PATH with the directories of system programs added where they are missing.
func searchPath() string {
	dirs := strings.Split(os.Getenv("PATH"), ":")
	for _, d := range sbin {
		if !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return strings.Join(slices.DeleteFunc(dirs, func(d string) bool { return d == "" }), ":")
}

// findTool finds a program on PATH or in the directories of system programs.
func findTool(name, debianPackage string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, d := range sbin {
		if path, err := exec.LookPath(d + "/" + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the lab needs the program %q: apt install %s", name, debianPackage)
}

// tools are the programs that build the world, with their absolute paths.
type tools struct{ ip, nft string }

func findTools() (tools, error) {
	ip, err1 := findTool("ip", "iproute2")
	nft, err2 := findTool("nft", "nftables")
	return tools{ip: ip, nft: nft}, errors.Join(err1, err2)
}
