# nix-build -E 'with import <nixpkgs> { }; callPackage ./packaging/nixos/package.nix { }'
{ lib, buildGoModule, installShellFiles, version ? "0.0.0" }:

buildGoModule {
  pname = "uplinkd";
  inherit version;
  src = lib.cleanSource ../..;
  # Of the directory that "go mod vendor" makes, as "nix hash path vendor" says; a test compares it.
  vendorHash = "sha256-dGdScAxpArdTrjXBL3YlUMAFrJjgNfT82Ew3O7Up4wE=";
  subPackages = [ "cmd/uplinkd" ];
  env.CGO_ENABLED = 0;
  ldflags = [ "-s" "-w" "-X main.release=v${version}" ];
  doCheck = false; # the tests make network namespaces
  nativeBuildInputs = [ installShellFiles ];
  postInstall = ''
    mkdir -p $out/lib/systemd/system
    for unit in uplinkd uplinkd-guard; do
      sed "s|/usr/local/sbin|$out/bin|" examples/$unit.service > $out/lib/systemd/system/$unit.service
    done
    $out/bin/uplinkd man > uplinkd.8
    $out/bin/uplinkd man --config > uplinkd.toml.5
    installManPage uplinkd.8 uplinkd.toml.5
    installShellCompletion --cmd uplinkd \
      --bash <($out/bin/uplinkd completion bash) \
      --zsh <($out/bin/uplinkd completion zsh) \
      --fish <($out/bin/uplinkd completion fish)
  '';
  meta = {
    description = "Keeps a Linux router with several uplinks online";
    homepage = "https://github.com/uplinkd/uplinkd";
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
    mainProgram = "uplinkd";
  };
}
