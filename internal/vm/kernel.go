package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// Kernel is an unpacked kernel package.
type Kernel struct {
	Image   string // the file that boots
	Modules string // the directory lib/modules/RELEASE, with an index by depmod
	Release string // as uname -r says it
}

// metaPackage depends on the newest kernel package of the distribution's release.
const metaPackage = "linux-image-amd64"

// findKernel returns the kernel in the cache directory. One that is not there is fetched from the Debian archive; one
// that is there is used as long as it lies there, so that results do not change underneath a developer.
func findKernel(ctx context.Context, cache string) (Kernel, error) {
	if runtime.GOARCH != "amd64" {
		return Kernel{}, fmt.Errorf("the virtual machine is an amd64 one, and this machine is %s", runtime.GOARCH)
	}
	root := filepath.Join(cache, "kernel")
	k, err := unpacked(root)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Kernel{}, err
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return Kernel{}, err
	}
	defer os.RemoveAll(work)
	if err := fetch(ctx, work); err != nil {
		return Kernel{}, fmt.Errorf("fetching a kernel: %w", err)
	}
	// Renamed when complete: what a killed run leaves behind is no kernel, and of two runs one is first.
	if err := os.Rename(filepath.Join(work, "root"), root); err != nil && !errors.Is(err, os.ErrExist) {
		return Kernel{}, err
	}
	return unpacked(root)
}

// unpacked looks at a kernel package's files. The error is os.ErrNotExist when there are none.
func unpacked(root string) (Kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return Kernel{}, err
	}
	if len(images) != 1 {
		return Kernel{}, fmt.Errorf("%s holds %d kernels: %w", root, len(images), os.ErrNotExist)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := Kernel{Image: images[0], Modules: filepath.Join(root, "lib", "modules", release), Release: release}
	if _, err := os.Stat(filepath.Join(k.Modules, "modules.dep")); err != nil {
		return Kernel{}, err
	}
	return k, nil
}

// fetch leaves an unpacked kernel package in work/root.
func fetch(ctx context.Context, work string) error {
	depends, err := output(ctx, work, "apt-cache", "depends", metaPackage)
	if err != nil {
		return err
	}
	name, err := kernelPackage(depends)
	if err != nil {
		return err
	}
	if _, err := output(ctx, work, "apt-get", "download", "-qq", name); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages (%w)", name, len(files), err)
	}
	root := filepath.Join(work, "root")
	if _, err := output(ctx, work, "dpkg-deb", "--extract", files[0], root); err != nil {
		return err
	}
	releases, err := filepath.Glob(filepath.Join(root, "lib", "modules", "*"))
	if err != nil || len(releases) != 1 {
		return fmt.Errorf("%s has modules of %d releases (%w)", name, len(releases), err)
	}
	// The package's postinst would do this; modprobe in the guest looks modules up in it.
	_, err = output(ctx, work, "depmod", "--basedir", root, filepath.Base(releases[0]))
	return err
}

var kernelForm = regexp.MustCompile(`(?m)^ *Depends: (linux-image-[0-9]\S*)$`)

// kernelPackage picks the package out of what "apt-cache depends" says of the meta-package.
func kernelPackage(depends string) (string, error) {
	m := kernelForm.FindStringSubmatch(depends)
	if m == nil {
		return "", fmt.Errorf("%s depends on no kernel here: is this Debian, and did apt-get update run?", metaPackage)
	}
	return m[1], nil
}

// searchPath has the system's directories behind the user's own path, which may lack them.
func searchPath() string { return os.Getenv("PATH") + ":/usr/sbin:/sbin" }

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "/usr/bin/env", append([]string{name}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	cmd.Env = append(os.Environ(), "PATH="+searchPath(), "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
